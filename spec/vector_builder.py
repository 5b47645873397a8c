"""Bytes of `.thaw` files and folders, valid or not, from a description of what is in them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, TypeAlias

MAGIC = b"\x89THAW\r\n\x1a"
SNAPSHOT_ID = bytes(range(0xA0, 0xB0))
SUPERBLOCK_NBYTES = 4096
CHUNK_NBYTES = 4096
EXTENSION = 0x100
PRIVATE = 0x80000000
TYPES = {"manifest": 1, "digests": 2, "payload": 3}
ELEMENT_NBYTES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e4m3fnuz"), 1),
    **dict.fromkeys(("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    "float4_e2m1fn_x2": 1,
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}

Object: TypeAlias = dict[str, Any]
Bytes: TypeAlias = Callable[[bytes], bytes]


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC32C of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def pattern(nbytes: int, seed: str = "thaw") -> bytes:
    """Return bytes that look random and are always the same, none of them zero."""
    return bytes(byte or 1 for byte in hashlib.shake_128(seed.encode()).digest(nbytes))


def align(value: int, unit: int) -> int:
    """Round up to a multiple of a unit."""
    return -(-value // unit) * unit


def arena(
    *storages: bytes, at: Sequence[int] | None = None, nbytes: int | None = None
) -> tuple[bytes, list[Object]]:
    """Lay storages out in a payload, tightly unless told where, and list them."""
    payload, listed = b"", []
    for index, data in enumerate(storages):
        offset = align(len(payload), 512) if at is None else at[index]
        payload = payload.ljust(offset, b"\0") + data
        listed.append({"offset": offset, "nbytes": len(data)})
    return payload.ljust(nbytes or 0, b"\0"), listed


def tensor(
    dtype: str,
    shape: Sequence[int] = (),
    stride: Sequence[int] | None = None,
    storage: int = 0,
    offset: int = 0,
) -> Object:
    """Describe a tensor, contiguous unless strides are given."""
    if stride is None:
        stride = contiguous(shape)
    return {
        "dtype": dtype,
        "shape": list(shape),
        "stride": list(stride),
        "storage": storage,
        "offset": offset,
    }


def contiguous(shape: Sequence[int]) -> list[int]:
    """Return the strides of a row-major tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


def manifest(**members: Any) -> Object:
    """Return the members of a manifest: those given, and plain ones for the rest."""
    plain: Object = {
        "kind": "weights",
        "producer": {"name": "vectors", "version": "1.0"},
        "shard": {"rank": 0, "size": 1},
        "storages": [],
        "tensors": {},
        "metadata": {},
    }
    return plain | members


def text(value: Object) -> bytes:
    """Write JSON on one line, with everything but ASCII controls unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A `.thaw` file: what it holds, and how it departs from what a writer would make of that.

    Attributes:
        manifest: the bytes of the manifest.
        payload: the bytes of the payload.
        chunk_nbytes: the size of a chunk.
        digests: the digest table, in place of the right one.
        extra: more sections by label, as type and bytes, after the payload.
        order: the labels of all sections in the order of their bytes, in place of the usual one.
        listed: the labels in the order of the section table, in place of the order of the bytes.
        offsets: where sections stand, by label.
        file_nbytes: the size of the file, where it does not end with its last section.
        head: fields of the superblock to change.
        entries: fields of the section table to change, by label.
        poke: bytes to change at offsets of the file before the superblock is checksummed.
        ending: what happens to the finished file.
    """

    manifest: bytes
    payload: bytes = b""
    chunk_nbytes: int = CHUNK_NBYTES
    digests: bytes | None = None
    extra: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    offsets: Mapping[str, int] = field(default_factory=dict)
    file_nbytes: int = 0
    head: Mapping[str, int | bytes] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    poke: Mapping[int, bytes] = field(default_factory=dict)
    ending: Bytes = bytes

    def build(self) -> bytes:
        """Return the bytes of the file."""
        sections = self._sections()
        offsets = self._offsets(sections)
        image = bytearray(self.file_nbytes)
        for label, (_, data) in sections.items():
            begin, end = offsets[label], offsets[label] + len(data)
            image.extend(bytes(max(end - len(image), 0)))
            image[begin:end] = data
        image[:SUPERBLOCK_NBYTES] = self._superblock(sections, offsets, len(image))
        for at, data in self.poke.items():
            image[at : at + len(data)] = data
        crc = self.head.get("superblock_crc32c", crc32c(bytes(image[:4092])))
        image[4092:4096] = crc if isinstance(crc, bytes) else struct.pack("<I", crc)
        return self.ending(bytes(image))

    def _sections(self) -> dict[str, tuple[int, bytes]]:
        plain = {
            "manifest": (TYPES["manifest"], self.manifest),
            "digests": (TYPES["digests"], self._digests()),
            "payload": (TYPES["payload"], self.payload),
        }
        sections = plain | dict(self.extra)
        return {label: sections[label] for label in self.order or sections}

    def _digests(self) -> bytes:
        return (
            digest_table(self.payload, self.chunk_nbytes) if self.digests is None else self.digests
        )

    def _offsets(self, sections: Mapping[str, tuple[int, bytes]]) -> dict[str, int]:
        offsets, end = {}, SUPERBLOCK_NBYTES
        for label, (_, data) in sections.items():
            natural = align(end, 4096) if label == "payload" else end
            offsets[label] = self.offsets.get(label, natural)
            end = max(end, offsets[label] + len(data))
        return offsets

    def _superblock(
        self,
        sections: Mapping[str, tuple[int, bytes]],
        offsets: Mapping[str, int],
        file_nbytes: int,
    ) -> bytes:
        head: dict[str, Any] = {
            "magic": MAGIC,
            "major": 1,
            "minor": 0,
            "section_count": len(sections),
            "compatible_features": 0,
            "required_features": 0,
            "file_nbytes": file_nbytes,
            "chunk_nbytes": self.chunk_nbytes,
            "snapshot_id": SNAPSHOT_ID,
        }
        head |= {name: value for name, value in self.head.items() if name in head}
        first = struct.pack("<8sHHIQQQQ16s", *head.values()).ljust(256, b"\0")
        table = b"".join(
            self._entry(label, *sections[label], offsets[label])
            for label in self.listed or sections
        )
        return (first + table).ljust(SUPERBLOCK_NBYTES, b"\0")

    def _entry(self, label: str, type_: int, data: bytes, offset: int) -> bytes:
        crc = 0 if type_ == TYPES["payload"] else crc32c(data)
        entry = {"type": type_, "flags": 0, "offset": offset, "nbytes": len(data), "crc32c": crc}
        entry = entry | {"reserved": 0} | dict(self.entries.get(label, {}))
        return struct.pack("<IIQQII", *entry.values())


def digest_table(payload: bytes, chunk_nbytes: int) -> bytes:
    """Return the CRC32C of every chunk, one after another."""
    starts = range(0, len(payload), chunk_nbytes)
    crcs = [crc32c(payload[start : start + chunk_nbytes]) for start in starts]
    return struct.pack(f"<{len(crcs)}I", *crcs)


def tensor_table(file: File) -> list[Object]:
    """Return what a reader has to find in a valid file, sorted by name."""
    found = json.loads(file.manifest)
    rows = []
    for name, each in sorted(found["tensors"].items()):
        start = found["storages"][each["storage"]]["offset"] + each["offset"]
        nbytes = ELEMENT_NBYTES[each["dtype"]]
        digest = hashlib.sha256()
        if each["shape"] and not any(each["stride"]):
            digest.update(file.payload[start : start + nbytes] * prod(each["shape"]))
        else:
            for index in _element_indices(each["shape"], each["stride"]):
                at = start + index * nbytes
                digest.update(file.payload[at : at + nbytes])
        members = ("dtype", "shape", "stride", "storage", "offset")
        rows.append(
            {"rank": found["shard"]["rank"], "name": name}
            | {member: each[member] for member in members}
            | {"sha256": digest.hexdigest()}
        )
    return rows


def _element_indices(shape: Sequence[int], stride: Sequence[int]) -> Iterator[int]:
    if 0 in shape:
        return
    for index in product(*(range(size) for size in shape)):
        yield sum(i * step for i, step in zip(index, stride, strict=True))
