"""The invalid vectors that break rules of several phases: the first phase is reported."""

from __future__ import annotations

from typing import Any

from vector_builder import EXTENSION, PRIVATE, File, Object, pattern, tensor, text
from vector_case import PLAIN, Case, Content, Variants, invalid, plain

TABLE_DAMAGED: Any = {"digests": {"crc32c": 1}}
MANIFEST_DAMAGED: Any = {"manifest": {"crc32c": 1}}
EXTRA = {"a": (EXTENSION, pattern(16))}
EXTRA_DAMAGED: Any = {"a": {"crc32c": 1}}
CHUNK = {8192: b"\0"}
PADDING = {8191: b"\1"}
RAW = text(PLAIN)


def _said(**members: Any) -> bytes:
    return text(PLAIN | members)


def _tensor(**members: Any) -> bytes:
    changed: Object = tensor("float32", (2, 3)) | members
    return _said(tensors={"w": changed})


def _case(rules: str, code: str, variant: str, description: str, content: Content) -> list[Case]:
    return invalid(rules, code, {f"before-{variant}": (description, content)})


def _damaged_later(code: str, manifest: bytes) -> Variants:
    """Make a file with this manifest, once for each thing that phase 7 finds."""
    return {
        "before-chunk": (f"{code}, and a damaged chunk", plain(manifest=manifest, poke=CHUNK)),
        "before-padding": (
            f"{code}, and a byte of padding",
            plain(manifest=manifest, offsets={"payload": 8192}, poke=PADDING),
        ),
        "before-extension": (
            f"{code}, and a damaged extension",
            plain(manifest=manifest, extra=EXTRA, entries=EXTRA_DAMAGED),
        ),
    }


def _sections(**file: Any) -> File:
    return plain(payload=pattern(24), **file)


CASES: list[Case] = [
    *_case(
        "SB-2",
        "bad-magic",
        "version",
        "a magic and a version that are wrong",
        plain(head={"magic": b"\x89THAW\r\n\n", "major": 2}),
    ),
    *_case(
        "SB-6",
        "superblock-checksum",
        "sections",
        "a superblock with a wrong checksum and a section outside of the file",
        plain(head={"superblock_crc32c": 1}, entries={"payload": {"nbytes": 2**40}}),
    ),
    *_case(
        "SB-7",
        "unknown-required-feature",
        "sections",
        "an unknown required feature and no payload",
        _sections(head={"required_features": 2}, entries={"payload": {"type": EXTENSION}}),
    ),
    *invalid(
        "SB-6 SB-10",
        "superblock-checksum",
        {
            "before-size": (
                "a superblock with a wrong checksum, which claims a longer file",
                plain(head={"superblock_crc32c": 1, "file_nbytes": 2**40}),
            ),
            "before-feature": (
                "a superblock with a wrong checksum, which requires a feature",
                plain(head={"superblock_crc32c": 1, "required_features": 1}),
            ),
            "before-chunk-size": (
                "a superblock with a wrong checksum, and chunks of no bytes",
                plain(head={"superblock_crc32c": 1, "chunk_nbytes": 0}),
            ),
        },
    ),
    *invalid(
        "SB-7 SB-10",
        "unknown-required-feature",
        {
            "before-longer": (
                "an unknown required feature in a file that claims to be longer",
                plain(head={"required_features": 1, "file_nbytes": 2**40}),
            ),
            "before-shorter": (
                "an unknown required feature in a file that claims to be shorter",
                plain(head={"required_features": 1, "file_nbytes": 4096}),
            ),
            "before-chunk-size": (
                "an unknown required feature, and chunks of no bytes",
                plain(head={"required_features": 1, "chunk_nbytes": 0}),
            ),
            "before-section-count": (
                "an unknown required feature, and 65 sections",
                plain(head={"required_features": 1, "section_count": 65}),
            ),
        },
    ),
    *_case(
        "SB-12",
        "bad-chunk-size",
        "sections",
        "chunks of no bytes, and a payload that is not aligned",
        plain(head={"chunk_nbytes": 0}, offsets={"payload": 8193}),
    ),
    *_case(
        "SB-13",
        "bad-section-count",
        "sections",
        "65 sections, one of which is outside of the file",
        plain(head={"section_count": 65}, poke={352: b"\xff" * 32}),
    ),
    *_case(
        "SEC-5",
        "missing-section",
        "manifest",
        "no digests, and a damaged manifest",
        _sections(entries={"digests": {"type": EXTENSION}} | MANIFEST_DAMAGED),
    ),
    *_case(
        "SEC-8",
        "misaligned-payload",
        "manifest",
        "a payload that is not aligned, and a damaged manifest",
        plain(offsets={"payload": 8193}, entries=MANIFEST_DAMAGED),
    ),
    *_case(
        "SEC-10",
        "bad-digest-count",
        "digests",
        "a digest table that is too long, and damaged",
        plain(digests=bytes(8), entries=TABLE_DAMAGED),
    ),
    *_case(
        "SEC-15",
        "bad-private-section",
        "manifest",
        "a private section that is too short, and a damaged manifest",
        plain(extra={"a": (PRIVATE, b"")}, entries=MANIFEST_DAMAGED),
    ),
    *_case(
        "SEC-11",
        "manifest-checksum",
        "extension",
        "a damaged manifest and a damaged extension",
        plain(extra=EXTRA, entries=MANIFEST_DAMAGED | EXTRA_DAMAGED),
    ),
    *_case(
        "SEC-11",
        "manifest-checksum",
        "members",
        "a manifest with a wrong checksum and no members",
        plain(manifest=b"{}", entries=MANIFEST_DAMAGED),
    ),
    *_case(
        "SEC-12",
        "digests-checksum",
        "json",
        "a damaged digest table, and a manifest that is not JSON",
        plain(manifest=b"not JSON", entries=TABLE_DAMAGED),
    ),
    *_case(
        "SEC-12",
        "digests-checksum",
        "duplicate-key",
        "a damaged digest table, and a manifest with a member twice",
        plain(manifest=RAW[:-1] + b',"x":1,"x":1}', entries=TABLE_DAMAGED),
    ),
    *_case(
        "SEC-12",
        "digests-checksum",
        "members",
        "a damaged digest table, and a manifest without members",
        plain(manifest=b"{}", entries=TABLE_DAMAGED),
    ),
    *_case(
        "SEC-12",
        "digests-checksum",
        "tensor",
        "a damaged digest table, and a tensor outside of its storage",
        plain(manifest=_tensor(offset=4), entries=TABLE_DAMAGED),
    ),
    *_case(
        "JSON-3",
        "json-duplicate-key",
        "members",
        "a kind that is a number, and behind it a member twice",
        plain(manifest=_said(kind=1)[:-1] + b',"x":1,"x":1}'),
    ),
    *_case(
        "JSON-4",
        "json-number",
        "members",
        "no kind, and at the end a fraction",
        plain(manifest=_said().replace(b'"kind"', b'"kin"')[:-1] + b',"x":0.5}'),
    ),
    *_case(
        "JSON-5",
        "json-depth",
        "members",
        "no member that is needed, and arrays to level 33",
        plain(manifest=b'{"x":' + b"[" * 32 + b"]" * 32 + b"}"),
    ),
    *_case(
        "JSON-6",
        "json-unicode",
        "members",
        "a tensor outside of its storage, and a lone surrogate in metadata",
        plain(manifest=_tensor(offset=4).replace(b'"metadata":{}', rb'"metadata":{"\ud800":1}')),
    ),
    *_case(
        "JSON-2",
        "json-syntax",
        "tensor",
        "an unknown dtype, and a text that is not closed",
        plain(manifest=_tensor(dtype="x")[:-1]),
    ),
    *invalid("MAN-1", "missing-member", _damaged_later("no members", b"{}".ljust(len(RAW)))),
    *invalid(
        "STO-2",
        "storage-out-of-bounds",
        _damaged_later("a storage too long", _said(storages=[{"offset": 0, "nbytes": 25}])),
    ),
    *invalid("TEN-2", "unknown-dtype", _damaged_later("an unknown dtype", _tensor(dtype="x"))),
    *invalid(
        "TEN-7", "tensor-out-of-bounds", _damaged_later("a tensor outside", _tensor(offset=4))
    ),
    *invalid("JSON-2", "json-syntax", _damaged_later("a text that is not JSON", b"[" * len(RAW))),
]
