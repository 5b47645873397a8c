"""The invalid vectors of the section table and of the sections' checksums."""

from __future__ import annotations

from vector_builder import EXTENSION, PRIVATE, File, manifest, pattern, text
from vector_case import PLAIN, Case, Variants, empty, invalid, plain

END = 8192 + 24
EXTRA = {"a": (EXTENSION, pattern(16))}
MANIFEST_END = 4096 + len(text(PLAIN))
WRAP = 2**64


def _extension(offset: int, nbytes: int) -> File:
    return plain(extra=EXTRA, entries={"a": {"offset": offset, "nbytes": nbytes}})


def _typed(type_: int, flags: int = 1) -> File:
    return plain(extra={"a": (type_, pattern(16))}, entries={"a": {"flags": flags}})


def _without(*labels: str) -> File:
    order = tuple(each for each in ("manifest", "digests", "payload") if each not in labels)
    return empty(order=order)


def _digests(data: bytes, payload: bytes = pattern(24)) -> File:
    members = PLAIN if payload else manifest()
    return File(manifest=text(members), payload=payload, digests=data)


OVERFLOW = {
    "wraps-to-zero": ("an extension that ends at 2^64", _extension(WRAP - 4096, 4096)),
    "wraps-into-file": ("an extension whose end wraps to 8200", _extension(WRAP - 1, 8201)),
    "greatest": ("the greatest offset and size", _extension(WRAP - 1, WRAP - 1)),
    "payload": (
        "a payload that ends at 2^64",
        plain(entries={"payload": {"offset": WRAP - 4096, "nbytes": 4096}}),
    ),
}

OUT_OF_BOUNDS = {
    "by-1": ("an extension that ends one byte after the file", _extension(END, 17)),
    "begins-after": ("an empty extension one byte after the file", _extension(END + 17, 0)),
    "far": ("an extension far outside", _extension(2**63, 16)),
    "empty-far": ("an empty extension at the greatest offset", _extension(WRAP - 1, 0)),
    "huge": ("an extension of almost 2^64 bytes", _extension(END, WRAP - 1 - END)),
    "at-0": ("an empty extension at 0", _extension(0, 0)),
    "superblock": ("an extension over the end of the superblock", _extension(4088, 8)),
    "superblock-by-1": ("an extension one byte before 4096", _extension(4095, 1)),
    "superblock-empty": ("an empty extension at 4095", _extension(4095, 0)),
    "payload-by-1": (
        "a payload that ends one byte after the file",
        plain(entries={"payload": {"nbytes": 25}}),
    ),
    "payload-at-0": (
        "an empty payload at 0",
        empty(entries={"payload": {"offset": 0}}),
    ),
    "payload-far": (
        "a payload of one byte at 2^63",
        plain(entries={"payload": {"offset": 2**63, "nbytes": 1}}),
    ),
    "manifest": (
        "a manifest that ends one byte after the file",
        plain(
            order=("digests", "payload", "manifest"),
            entries={"manifest": {"nbytes": len(text(PLAIN)) + 1}},
        ),
    ),
    "manifest-huge": (
        "a manifest of 268435456 bytes in a small file",
        plain(
            order=("digests", "payload", "manifest"), entries={"manifest": {"nbytes": 268435456}}
        ),
    ),
}

REQUIRED = {
    "4": ("type 4", _typed(4)),
    "0": ("type 0", _typed(0)),
    "private": ("a type for private use", _typed(PRIVATE)),
    "unassigned": ("a type that a later version may assign", _typed(5)),
    "greatest": ("the greatest type", _typed(2**32 - 1)),
    "big-endian": ("type 1 in big-endian order", _typed(1 << 24)),
    "more-flags": ("reserved flags beside the required one", _typed(4, 2**32 - 1)),
}

MISSING = {
    "manifest": ("no manifest", _without("manifest")),
    "digests": ("no digest table, not even an empty one", _without("digests")),
    "payload": ("no payload, not even an empty one", _without("payload")),
    "all": ("no sections", empty(head={"section_count": 0})),
    "uncounted": ("a payload entry beyond section_count", empty(head={"section_count": 2})),
    "renamed": (
        "an extension in the place of the payload",
        empty(entries={"payload": {"type": EXTENSION}}),
    ),
}

DUPLICATE = {
    "manifest": ("two manifests alike", plain(extra={"again": (1, text(PLAIN))})),
    "manifest-other": ("two manifests that differ", plain(extra={"again": (1, text(manifest()))})),
    "digests": ("two digest tables of one size", plain(extra={"again": (2, b"\0" * 4)})),
    "payload": (
        "two payloads of one size",
        plain(extra={"again": (3, pattern(24))}, offsets={"again": 12288}),
    ),
    "payload-empty": (
        "two empty payloads",
        empty(extra={"again": (3, b"")}, offsets={"again": 8192}),
    ),
}

OVERLAP = {
    "manifest-end": (
        "an extension over the last byte of the manifest",
        _extension(MANIFEST_END - 1, 1),
    ),
    "manifest-start": ("an extension over the first byte of the manifest", _extension(4096, 1)),
    "payload-end": ("an extension over the last byte of the payload", _extension(END - 1, 17)),
    "payload-start": ("an extension over the first byte of the payload", _extension(8191, 2)),
    "payload-inside": ("an extension inside the payload", _extension(8200, 4)),
    "around": ("an extension around the payload", _extension(8000, END + 16 - 8000)),
    "same": ("an extension that is the payload", _extension(8192, 24)),
    "extensions": (
        "two extensions that share one byte",
        plain(
            extra={"a": (EXTENSION, pattern(16)), "b": (EXTENSION, pattern(16))},
            entries={"b": {"offset": END + 15}},
        ),
    ),
    "digests": (
        "a digest table over the last byte of the manifest",
        plain(entries={"digests": {"offset": MANIFEST_END - 1}}),
    ),
    "manifest-payload": (
        "a manifest over the first byte of the payload",
        plain(entries={"manifest": {"offset": 8193 - len(text(PLAIN))}}),
    ),
}

MISALIGNED = {
    "by-1": ("a payload at 8193", plain(offsets={"payload": 8193})),
    "512": ("a payload at 8192 + 512", plain(offsets={"payload": 8704})),
    "2048": ("a payload at 8192 + 2048", plain(offsets={"payload": 10240})),
    "empty": ("an empty payload at 8193", empty(offsets={"payload": 8193})),
}

MANIFEST_SIZE = {
    "0": ("a manifest of no bytes", empty(manifest=b"")),
    "1": ("a manifest of one byte", empty(manifest=b"1")),
    "0-claim": (
        "an entry of no bytes before a whole manifest",
        empty(entries={"manifest": {"nbytes": 0}}),
    ),
}

DIGEST_COUNT = {
    "one-less": ("one entry of two", _digests(b"\0" * 4, pattern(4097))),
    "one-more": ("three entries for two chunks", _digests(b"\0" * 12, pattern(8192))),
    "none": ("no entry for one chunk", _digests(b"")),
    "empty-payload": ("an entry for a payload of no bytes", _digests(b"\0" * 4, b"")),
    "partial": ("five bytes", _digests(b"\0" * 5)),
    "three-bytes": ("three bytes", _digests(b"\0" * 3)),
    "sha256": ("32 bytes for one chunk", _digests(b"\0" * 32)),
}

MANIFEST_CHECKSUM: Variants = {
    "first-byte": ("a bit of its first byte flipped", plain(poke={4096: b"z"})),
    "last-byte": ("its last byte a space", plain(poke={MANIFEST_END - 1: b" "})),
    "same-size": (
        "a digit of a version changed",
        plain(poke={4096 + text(PLAIN).index(b'1.0"'): b"2"}),
    ),
    "stored": ("a checksum of zero", plain(entries={"manifest": {"crc32c": 0}})),
    "size": (
        "an entry one byte shorter than the manifest",
        plain(entries={"manifest": {"nbytes": len(text(PLAIN)) - 1}}),
    ),
}

DIGESTS_CHECKSUM = {
    "first-byte": ("its first byte changed", plain(poke={MANIFEST_END: b"\0"})),
    "stored": ("a checksum of zero", plain(entries={"digests": {"crc32c": 0}})),
    "empty": ("an empty table with a checksum", empty(entries={"digests": {"crc32c": 1}})),
    "offset": (
        "an entry that points one byte too far",
        plain(entries={"digests": {"offset": MANIFEST_END + 1}}),
    ),
}

EXTENSION_CHECKSUM = {
    "changed": ("a byte of an extension changed", plain(extra=EXTRA, poke={END + 3: b"\0"})),
    "stored": ("a checksum of zero", plain(extra=EXTRA, entries={"a": {"crc32c": 0}})),
    "empty": (
        "an empty extension with a checksum",
        plain(extra={"a": (EXTENSION, b"")}, entries={"a": {"crc32c": 1}}),
    ),
    "last": (
        "the last of three extensions changed",
        plain(
            extra={**EXTRA, "b": (5, b"b"), "c": (6, b"c")},
            entries={"c": {"crc32c": 0}},
        ),
    ),
    "private": (
        "a type for private use",
        plain(extra={"a": (PRIVATE, pattern(16))}, entries={"a": {"crc32c": 1}}),
    ),
}

PRIVATE_SECTIONS = {
    "empty": ("a private section of no bytes", plain(extra={"a": (PRIVATE, b"")})),
    "15": ("a private section of 15 bytes", plain(extra={"a": (PRIVATE + 1, pattern(15))})),
    "greatest": (
        "15 bytes of the greatest type, after a private section of 16 bytes",
        plain(extra={"a": (PRIVATE, pattern(16)), "b": (2**32 - 1, pattern(15))}),
    ),
}

ORDER = [
    *invalid(
        "SEC-11",
        "manifest-checksum",
        {
            "before-json": (
                "a manifest with a wrong checksum that is not JSON either",
                plain(manifest=b"not JSON", entries={"manifest": {"crc32c": 0}}),
            ),
            "before-chunks": (
                "a manifest and a chunk with wrong checksums",
                plain(poke={4096 + 9: b"W", 8192: b"\0"}),
            ),
        },
    )
]

CASES: list[Case] = [
    *invalid("SEC-1 CON-3", "section-overflow", OVERFLOW),
    *invalid("SEC-2 CON-3", "section-out-of-bounds", OUT_OF_BOUNDS),
    *invalid("SEC-3", "unknown-required-section", REQUIRED),
    *invalid("SEC-5", "missing-section", MISSING),
    *invalid("SEC-6", "duplicate-section", DUPLICATE),
    *invalid("SEC-7", "section-overlap", OVERLAP),
    *invalid("SEC-8", "misaligned-payload", MISALIGNED),
    *invalid("SEC-9", "bad-manifest-size", MANIFEST_SIZE),
    *invalid("SEC-10", "bad-digest-count", DIGEST_COUNT),
    *invalid("SEC-11", "manifest-checksum", MANIFEST_CHECKSUM),
    *invalid("SEC-12", "digests-checksum", DIGESTS_CHECKSUM),
    *invalid("SEC-13", "section-checksum", EXTENSION_CHECKSUM),
    *invalid("SEC-15", "bad-private-section", PRIVATE_SECTIONS),
    *ORDER,
]
