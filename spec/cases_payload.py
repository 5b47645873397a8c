"""The invalid vectors of digests and padding."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from vector_builder import (
    EXTENSION,
    File,
    arena,
    crc32c,
    digest_table,
    manifest,
    pattern,
    tensor,
    text,
)
from vector_case import PAYLOAD, PLAIN, Case, Variants, empty, invalid, plain

START = 20480
CHUNKED, _LISTED = arena(pattern(5000), pattern(1000, "b"), at=(0, 12288), nbytes=20000)
MANIFEST = text(
    manifest(
        storages=_LISTED,
        tensors={
            "a": tensor("int16", (100, 2), (20, 3)),
            "b": tensor("uint8", (10,), storage=1),
        },
    )
)
MANIFEST_END = 4096 + len(text(PLAIN))
DIGESTS = digest_table(CHUNKED, 4096)


def _chunked(payload: bytes = CHUNKED, **file: Any) -> File:
    return File(manifest=MANIFEST, payload=payload, offsets={"payload": START}, **file)


def _poked(at: int) -> File:
    return _chunked(poke={START + at: bytes([CHUNKED[at] ^ 1])})


def _filled(at: int) -> File:
    return _chunked(CHUNKED[:at] + b"\1" + CHUNKED[at + 1 :])


def _digest(index: int, crc: int) -> File:
    before, after = DIGESTS[: 4 * index], DIGESTS[4 * index + 4 :]
    return _chunked(digests=before + struct.pack("<I", crc) + after)


def _table(*crcs: int) -> File:
    return plain(digests=struct.pack(f"<{len(crcs)}I", *crcs))


WRONG_CHUNKS: Variants = {
    "first": ("a bit of the first byte of the first chunk flipped", _poked(0)),
    "first-end": ("a bit of the last byte of the first chunk flipped", _poked(4095)),
    "second": ("a bit of the second chunk flipped", _poked(4096)),
    "between-elements": ("a bit between elements flipped, which no tensor views", _poked(10)),
    "unviewed": (
        "a bit at the end of a storage flipped, which no tensor views",
        _poked(12288 + 999),
    ),
    "short-last": ("a bit of a short last chunk flipped", plain(poke={8192 + 23: b"\0"})),
    "gap": ("a wrong digest of a chunk of zeros that belongs to no storage", _digest(2, 1)),
    "gap-zero": ("a digest of zero for a chunk of zeros", _digest(2, 0)),
    "last": ("a wrong digest of the last chunk", _digest(4, 0xFFFFFFFF)),
    "swapped": (
        "the digests of two chunks swapped",
        _chunked(digests=DIGESTS[4:8] + DIGESTS[:4] + DIGESTS[8:]),
    ),
    "zeros": ("a digest table of zeros", _chunked(digests=bytes(20))),
    "padded": (
        "the digest of a short chunk filled up with zeros",
        _table(crc32c(PAYLOAD.ljust(4096, b"\0"))),
    ),
    "crc32": ("the CRC-32 of zip", _table(zlib.crc32(PAYLOAD))),
    "big-endian": (
        "a digest in big-endian order",
        plain(digests=struct.pack(">I", crc32c(PAYLOAD))),
    ),
    "not-inverted": ("a digest without the final XOR", _table(crc32c(PAYLOAD) ^ 0xFFFFFFFF)),
    "storages-alone": (
        "a digest of the storages without the gap between them",
        _digest(3, crc32c(CHUNKED[12288:13288])),
    ),
}

PADDING: Variants = {
    "gap-start": ("a byte right behind a storage, with the right digest", _filled(5000)),
    "gap": ("a byte in a chunk that belongs to no storage, with the right digest", _filled(9000)),
    "gap-end": ("a byte right before a storage, with the right digest", _filled(12287)),
    "tail": ("a byte behind the last storage, with the right digest", _filled(13288)),
    "tail-end": ("the last byte of the payload, with the right digest", _filled(19999)),
    "before-first": (
        "a byte before the first storage, with the right digest",
        File(
            manifest=text(manifest(storages=[{"offset": 512, "nbytes": 1}])),
            payload=b"\0" * 511 + b"\1\1",
        ),
    ),
    "no-storages": ("a payload of one byte without storages", empty(payload=b"\1")),
    "empty-storage": (
        "a byte where a storage of no bytes stands",
        empty(manifest=text(manifest(storages=[{"offset": 0, "nbytes": 0}])), payload=b"\1"),
    ),
    "sections-first": (
        "a byte between the superblock and the manifest",
        plain(offsets={"manifest": 4097}, poke={4096: b"\1"}),
    ),
    "sections-middle": (
        "a byte between the manifest and the digest table",
        plain(offsets={"digests": MANIFEST_END + 1}, poke={MANIFEST_END: b" "}),
    ),
    "sections-payload": ("the byte before the payload", plain(poke={8191: b"\xff"})),
    "sections-after-digests": (
        "the byte after the digest table",
        plain(poke={MANIFEST_END + 4: b"\1"}),
    ),
    "file-end": ("the last byte of the file", plain(file_nbytes=9000, poke={8999: b"\1"})),
    "payload-end": ("the byte after the payload", plain(file_nbytes=9000, poke={8192 + 24: b"\1"})),
    "extension": (
        "a byte between two extensions",
        plain(
            extra={"a": (EXTENSION, b"a"), "b": (EXTENSION, b"b")},
            offsets={"a": 8300, "b": 8302},
            poke={8301: b"\1"},
        ),
    ),
    "empty-extension": (
        "a byte where an extension of no bytes stands",
        plain(
            extra={"a": (EXTENSION, b"")}, offsets={"a": 8300}, file_nbytes=8301, poke={8300: b"\1"}
        ),
    ),
}

CASES: list[Case] = [
    *invalid("PAY-1 PAY-2", "chunk-checksum", WRONG_CHUNKS),
    *invalid("PAY-3", "nonzero-padding", PADDING),
]
