"""The vectors of the section of SHA-256 hashes, which a reader may leave alone."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from vector_builder import (
    CHUNK_NBYTES,
    EXTENSION,
    SNAPSHOT_ID,
    File,
    pattern,
    tensor,
    text,
)
from vector_case import (
    PAYLOAD,
    PLAIN,
    Case,
    Content,
    either,
    empty,
    invalid,
    plain,
    snapshot,
    valid,
)

HASHES = 4
NAME = b"thaw root sha256"
HEAD = b"sha256".ljust(32, b"\0")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _section(said: bytes, payload: bytes, *, identity: bytes = SNAPSHOT_ID) -> bytes:
    starts = range(0, len(payload), CHUNK_NBYTES)
    hashes = b"".join(_sha256(payload[start : start + CHUNK_NBYTES]) for start in starts)
    sizes = struct.pack("<QQ", CHUNK_NBYTES, len(payload))
    return HEAD + _sha256(NAME + identity + sizes + _sha256(said) + hashes) + hashes


def _hashed(file: File) -> File:
    section = _section(file.manifest, file.payload)
    return File(manifest=file.manifest, payload=file.payload, extra={"hashes": (HASHES, section)})


def _with(section: bytes, **file: Any) -> File:
    return plain(extra={"hashes": (HASHES, section)}, **file)


RIGHT = _section(text(PLAIN), PAYLOAD)
LONG = snapshot({"x": tensor("uint8", (9000,))}, pattern(9000))
MALFORMED: dict[str, tuple[str, Content]] = {
    "short": ("a section one byte too short", _with(RIGHT[:-1])),
    "long": ("a section one hash too long", _with(RIGHT + bytes(32))),
    "empty": ("a section of no bytes", _with(b"")),
    "twice": (
        "two sections that are right",
        plain(extra={"a": (HASHES, RIGHT), "b": (HASHES, RIGHT)}),
    ),
    "algorithm": ("another algorithm", _with(b"sha512" + RIGHT[6:])),
    "reserved": ("a reserved byte that is not zero", _with(RIGHT[:31] + b"\1" + RIGHT[32:])),
}
WRONG: dict[str, tuple[str, Content]] = {
    "hash": ("a bit of a hash flipped", _with(RIGHT[:-1] + bytes([RIGHT[-1] ^ 1]))),
    "root": ("a root of zeros", _with(HEAD + bytes(32) + RIGHT[64:])),
    "root-manifest": ("the root for another manifest", _with(_section(b"{}", PAYLOAD))),
    "root-id": (
        "the root for another snapshot id",
        _with(_section(text(PLAIN), PAYLOAD, identity=bytes(16))),
    ),
    "payload": (
        "the hashes of another payload of the same size",
        _with(_section(text(PLAIN), pattern(24, "other"))),
    ),
}

CASES: list[Case] = [
    valid("hashes", "HASH-1 HASH-2", "one chunk, its hash and the root", _hashed(plain())),
    valid("hashes-chunks", "HASH-1 HASH-2", "three chunks, the last short", _hashed(LONG)),
    valid("hashes-empty", "HASH-1 HASH-2", "no chunk, and a root", _hashed(empty())),
    valid(
        "hashes-beside",
        "HASH-1 SEC-4",
        "hashes first in the file, and a section of an unknown type",
        plain(
            extra={"hashes": (HASHES, RIGHT), "a": (EXTENSION, pattern(16))},
            order=("hashes", "a", "manifest", "digests", "payload"),
        ),
    ),
    *invalid(
        "SEC-13 HASH-1",
        "section-checksum",
        {
            "hashes": (
                "hashes that are right, and a checksum of zero",
                _with(RIGHT, entries={"hashes": {"crc32c": 0}}),
            ),
            "hashes-malformed": (
                "hashes that are too short, with a wrong checksum",
                _with(RIGHT[:-1], entries={"hashes": {"crc32c": 0}}),
            ),
        },
    ),
    *invalid(
        "PAY-1 HASH-2",
        "chunk-checksum",
        {"hashed": ("a damaged chunk, and its right hash", _with(RIGHT, poke={8192: b"\0"}))},
    ),
    *invalid(
        "PAY-3 HASH-2",
        "nonzero-padding",
        {
            "hashed": (
                "a byte of padding, and a root of zeros",
                _with(HEAD + bytes(32) + RIGHT[64:], poke={8191: b"\1"}),
            )
        },
    ),
    *invalid(
        "SEC-3 HASH-1",
        "unknown-required-section",
        {
            "hashes": (
                "hashes that are right, with the required flag",
                _with(RIGHT, entries={"hashes": {"flags": 1}}),
            )
        },
    ),
    *(
        either(f"bad-hash-section-{name}", "HASH-1 SEC-4", "bad-hash-section", said, content)
        for name, (said, content) in MALFORMED.items()
    ),
    *(
        either(f"chunk-hash-{name}", "HASH-2 SEC-4", "chunk-hash", said, content)
        for name, (said, content) in WRONG.items()
    ),
]
