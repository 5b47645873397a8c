"""Weights and their fingerprints (spec/sessions-1.0.md, section 5)."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

from vector_builder import ELEMENT_NBYTES, File, Object, crc32c, pattern, tensor
from vector_case import Case, snapshot

PIECE_NBYTES = 4194304


@dataclass(frozen=True, slots=True)
class WeightsCase(Case):
    """A snapshot, and the fingerprint of an engine that holds its tensors."""

    @property
    def place(self) -> str:
        """Say where it lies below the folder of the vectors, without a suffix."""
        return f"weights/{self.name}"

    def expected(self) -> Object:
        """Return the members of its JSON file."""
        assert isinstance(self.content, File)
        return {"description": self.description, "fingerprint": fingerprint(self.content)}


def fingerprint(file: File) -> str:
    """Return the fingerprint of the tensors of a file."""
    root = json.loads(file.manifest)
    lines = b""
    for name, each in sorted(root["tensors"].items()):
        data = b"".join(_elements(file, root["storages"][each["storage"]]["offset"], each))
        crcs = [
            _crc(data[start : start + PIECE_NBYTES]) for start in range(0, len(data), PIECE_NBYTES)
        ]
        line = [name, each["dtype"], each["shape"], crcs]
        lines += json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return hashlib.sha256(lines).hexdigest()


_crc = cache(crc32c)


def _elements(file: File, start: int, each: Object) -> Iterator[bytes]:
    nbytes = ELEMENT_NBYTES[each["dtype"]]
    if each["shape"] and not any(each["stride"]):
        start += each["offset"]
        yield file.payload[start : start + nbytes] * prod(each["shape"])
        return
    for index in product(*(range(size) for size in each["shape"])):
        at = sum(i * step for i, step in zip(index, each["stride"], strict=True))
        begin = start + each["offset"] + at * nbytes
        yield file.payload[begin : begin + nbytes]


def _case(name: str, description: str, tensors: Object, *storages: bytes) -> WeightsCase:
    content = snapshot(tensors, *storages)
    return WeightsCase(name=name, description=description, rules=(), content=content)


def _named(*names: str) -> Object:
    return {name: tensor("uint8", (1,), offset=index) for index, name in enumerate(names)}


FLOATS = struct.pack("<6f", *range(1, 7))
CASES: list[WeightsCase] = [
    _case("one", "one scalar", {"x": tensor("float32")}, struct.pack("<f", 1.0)),
    _case("none", "no tensors", {}),
    _case("empty", "a tensor of no elements", {"x": tensor("float32", (2, 0, 3))}, b""),
    _case("plain", "a matrix", {"x": tensor("float32", (2, 3))}, FLOATS),
    _case("flat", "its elements in a row", {"x": tensor("float32", (6,))}, FLOATS),
    _case("renamed", "the matrix by another name", {"y": tensor("float32", (2, 3))}, FLOATS),
    _case("as-integers", "its bits as integers", {"x": tensor("int32", (2, 3))}, FLOATS),
    _case(
        "one-bit",
        "the matrix with one bit changed",
        {"x": tensor("float32", (2, 3))},
        FLOATS[:-1] + bytes([FLOATS[-1] ^ 1]),
    ),
    _case(
        "transposed",
        "the matrix in columns: elements count in index order",
        {"x": tensor("float32", (2, 3), (1, 2))},
        struct.pack("<6f", 1, 4, 2, 5, 3, 6),
    ),
    _case(
        "gaps",
        "the matrix with gaps between rows",
        {"x": tensor("float32", (2, 3), (4, 1))},
        FLOATS[:12] + pattern(4) + FLOATS[12:],
    ),
    _case(
        "tied",
        "one matrix by two names, and a part of it",
        {
            "b": tensor("float32", (2, 3)),
            "a": tensor("float32", (2, 3)),
            "part": tensor("float32", (3,), offset=12),
        },
        FLOATS,
    ),
    _case(
        "names",
        "names that JSON escapes, or might, and that sort otherwise in UTF-16",
        _named('"', "\\", "/", "\n\t\b\f\r", "\x01\x1f", "\x7f", "\u2028", "<&>", "\u00e4"),
        pattern(9),
    ),
    _case(
        "names-order",
        "names in the order of code points",
        _named("\uff21", "\U0001f9ca", "b", "a", "a.b", "A", "a\u0308", "\u00e4"),
        pattern(8),
    ),
    _case(
        "pieces",
        "tensors of one piece, of one byte more and of one less",
        {
            "whole": tensor("uint8", (PIECE_NBYTES,), (0,)),
            "more": tensor("uint8", (PIECE_NBYTES + 1,), (0,)),
            "less": tensor("uint8", (PIECE_NBYTES - 1,), (0,)),
        },
        b"\x07",
    ),
    _case(
        "dtypes",
        "a tensor of each dtype",
        {name: tensor(name, (48 // nbytes,)) for name, nbytes in ELEMENT_NBYTES.items()},
        pattern(48),
    ),
]
