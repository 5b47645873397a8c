"""An independent decoder of the `.thaw` format, in the order of spec/thaw-1.0.md.

    python spec/reader.py PATH    verifies a file or folder and prints its tensor table (13.1)

It needs the standard library alone and is written to be read beside the specification. It is slow.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any, Literal

# 1. Words


class Error(Exception):
    """A file breaks a rule."""

    def __init__(self, code: str, rule: str | None, message: str) -> None:
        super().__init__(message)
        self.code, self.rule, self.message = code, rule, message


def require(condition: bool, code: str, rule: str, message: str) -> None:
    if not condition:
        raise Error(code, rule, message)


def _crc_tables() -> list[list[int]]:
    first = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        first.append(byte)
    tables = [first]
    for _ in range(7):
        tables.append([first[entry & 255] ^ entry >> 8 for entry in tables[-1]])
    return tables


T0, T1, T2, T3, T4, T5, T6, T7 = _crc_tables()


def crc32c(data: bytes, crc: int = 0) -> int:
    """Continue a CRC32C, eight bytes at a step."""
    crc ^= 0xFFFFFFFF
    whole = len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        word ^= crc
        crc = (
            T7[word & 255]
            ^ T6[word >> 8 & 255]
            ^ T5[word >> 16 & 255]
            ^ T4[word >> 24 & 255]
            ^ T3[word >> 32 & 255]
            ^ T2[word >> 40 & 255]
            ^ T1[word >> 48 & 255]
            ^ T0[word >> 56]
        )
    for byte in data[whole:]:
        crc = T0[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# 4. The superblock

MAGIC = bytes([0x89, 0x54, 0x48, 0x41, 0x57, 0x0D, 0x0A, 0x1A])
MANIFEST, DIGESTS, PAYLOAD, HASHES, PRIVATE = 1, 2, 3, 4, 1 << 31


@dataclass
class Section:
    """An entry of the section table."""

    kind: int
    flags: int
    offset: int
    nbytes: int
    crc: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass
class Shard:
    """One file, with what has been decoded of it so far."""

    file: IO[bytes]
    size: int
    path: str = ""
    version: tuple[Any, ...] = ()
    chunk_nbytes: int = 0
    snapshot_id: bytes = b""
    root_digest: int = 0
    sections: list[Section] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    digests: tuple[int, ...] = ()

    def read(self, offset: int, nbytes: int) -> bytes:
        if self.file.closed:
            self.file = open(self.path, "rb")  # noqa: SIM115
            if version_of(self.file) != self.version:
                raise Error("io", None, f"{self.path} is another file than before (CON-4)")
        self.file.seek(offset)
        data = self.file.read(nbytes)
        require(len(data) == nbytes, "truncated-file", "SB-10", "the file ended while it was read")
        return data

    def section(self, kind: int) -> Section:
        return next(section for section in self.sections if section.kind == kind)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        for offset in range(start, end, 1 << 20):
            yield self.read(offset, min(1 << 20, end - offset))


def version_of(file: IO[bytes]) -> tuple[Any, ...]:
    status = os.fstat(file.fileno())
    file.seek(0)
    head = hashlib.sha256(file.read(4096)).digest()
    return status.st_dev, status.st_ino, status.st_size, head


def read_superblock(shard: Shard) -> bytes:
    """Work through phases 1 and 2, and return the superblock's bytes."""
    data = shard.read(0, min(4096, shard.size))
    check_magic(data)
    major, _minor, count, _compatible, required, file_nbytes, chunk, identity = struct.unpack_from(
        "<HHIQQQQ16s", data, 8
    )
    require(major == 1, "unknown-major-version", "SB-4", f"major version {major}")
    (stored,) = struct.unpack_from("<I", data, 4092)
    require(crc32c(data[:4092]) == stored, "superblock-checksum", "SB-6", "damaged superblock")
    require(not required, "unknown-required-feature", "SB-7", f"features {required:#x}")
    require(shard.size >= file_nbytes, "truncated-file", "SB-10", f"{shard.size} bytes")
    require(shard.size <= file_nbytes, "trailing-bytes", "SB-11", f"{shard.size} bytes")
    power = chunk.bit_count() == 1 and 1 << 12 <= chunk <= 1 << 30
    require(power, "bad-chunk-size", "SB-12", f"chunks of {chunk} bytes")
    require(count <= 64, "bad-section-count", "SB-13", f"{count} sections")
    shard.chunk_nbytes, shard.snapshot_id, shard.root_digest = chunk, identity, stored
    return data


def check_magic(data: bytes) -> None:
    require(data[:4] != b"THAW", "foreign-magic", "SB-3", "a file of another project")
    require(data[:8] == MAGIC[: len(data)], "bad-magic", "SB-2", "not a .thaw file")
    require(len(data) == 4096, "truncated-superblock", "SB-1", f"{len(data)} bytes")


# 5. Sections


def read_sections(shard: Shard, data: bytes) -> None:
    """Work through phase 3."""
    (count,) = struct.unpack_from("<I", data, 12)
    for index in range(count):
        kind, flags, offset, nbytes, crc, _ = struct.unpack_from("<IIQQII", data, 256 + 32 * index)
        section = Section(kind, flags, offset, nbytes, crc)
        require(section.end < 1 << 64, "section-overflow", "SEC-1", f"section {index}")
        inside = offset >= 4096 and section.end <= shard.size
        require(inside, "section-out-of-bounds", "SEC-2", f"section {index}")
        unknown = kind not in (MANIFEST, DIGESTS, PAYLOAD)
        require(not (unknown and flags & 1), "unknown-required-section", "SEC-3", f"type {kind}")
        named = kind < PRIVATE or nbytes >= 16
        require(named, "bad-private-section", "SEC-15", f"{nbytes} bytes of type {kind}")
        shard.sections.append(section)
    for kind in (MANIFEST, DIGESTS, PAYLOAD):
        found = sum(section.kind == kind for section in shard.sections)
        require(found > 0, "missing-section", "SEC-5", f"no section of type {kind}")
        require(found < 2, "duplicate-section", "SEC-6", f"{found} sections of type {kind}")
    at = 0
    for section in in_file_order(shard):
        require(section.offset >= at, "section-overlap", "SEC-7", f"byte {section.offset}")
        at = section.end
    check_section_sizes(shard)


def in_file_order(shard: Shard) -> list[Section]:
    return sorted((s for s in shard.sections if s.nbytes), key=lambda s: s.offset)


def check_section_sizes(shard: Shard) -> None:
    manifest, payload = shard.section(MANIFEST), shard.section(PAYLOAD)
    aligned = payload.offset % 4096 == 0
    require(aligned, "misaligned-payload", "SEC-8", f"payload at {payload.offset}")
    allowed = 2 <= manifest.nbytes <= 1 << 28
    require(allowed, "bad-manifest-size", "SEC-9", f"{manifest.nbytes} bytes")
    chunks = (payload.nbytes + shard.chunk_nbytes - 1) // shard.chunk_nbytes
    found = shard.section(DIGESTS).nbytes
    require(found == 4 * chunks, "bad-digest-count", "SEC-10", f"{found} bytes of digests")


def checked_section(shard: Shard, kind: int, code: str, rule: str) -> bytes:
    """Read a section whose size has been checked, and check its bytes."""
    section = shard.section(kind)
    data = shard.read(section.offset, section.nbytes)
    require(crc32c(data) == section.crc, code, rule, "the section is damaged")
    return data


# 6. The manifest as JSON


STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)', re.DOTALL)
MAX_CONTAINERS, MAX_COMMAS = 1 << 20, 1 << 23


def check_limit(data: bytes) -> None:
    """Refuse a text of more values than this reader has memory for (13, CON-3)."""
    containers, commas = data.count(b"{") + data.count(b"["), data.count(b",")
    if containers <= MAX_CONTAINERS and commas <= MAX_COMMAS:
        return
    marks = STRING.sub(b"0", data)
    containers, commas = marks.count(b"{") + marks.count(b"["), marks.count(b",")
    good = containers <= MAX_CONTAINERS and commas <= MAX_COMMAS
    require(good, "limit", "CON-3", f"{containers} objects and arrays, {commas} commas")


def parse_json(data: bytes) -> dict[str, Any]:
    check_limit(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Error("json-encoding", "JSON-1", str(error)) from None
    require(not text.startswith("\ufeff"), "json-encoding", "JSON-1", "a byte order mark")
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique_members,
            parse_int=small_integer,
            parse_float=no_float,
            parse_constant=no_constant,
        )
    except RecursionError:
        raise Error("json-depth", "JSON-5", "nested far too deep") from None
    except ValueError as error:
        raise Error("json-syntax", "JSON-2", str(error)) from None
    require(isinstance(value, dict), "json-syntax", "JSON-2", "not an object")
    check_values(value)
    found: dict[str, Any] = value
    return found


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    require(len(members) == len(pairs), "json-duplicate-key", "JSON-3", "a member occurs twice")
    return members


def small_integer(digits: str) -> int:
    small = len(digits) <= 17 and abs(int(digits)) < 1 << 53
    require(small, "json-number", "JSON-4", digits[:30])
    return int(digits)


def no_float(text: str) -> None:
    raise Error("json-number", "JSON-4", text[:30])


def no_constant(text: str) -> None:
    raise Error("json-syntax", "JSON-2", text)


def check_values(root: Any) -> None:
    """Check depth and strings, level by level."""
    level, depth = [root], 1
    while level:
        require(depth <= 32, "json-depth", "JSON-5", "nested deeper than 32")
        inner = []
        for container in level:
            names = container if isinstance(container, dict) else ()
            for value in chain(names, container.values() if names else container):
                if isinstance(value, str):
                    lone = re.search("[\ud800-\udfff]", value)
                    require(not lone, "json-unicode", "JSON-6", "a lone surrogate")
                elif isinstance(value, dict | list):
                    inner.append(value)
        level, depth = inner, depth + 1


# 7. The members of the manifest


def member(parent: Any, name: str, kind: type) -> Any:
    require(name in parent, "missing-member", "MAN-1", f"no member {name}")
    require(type(parent[name]) is kind, "bad-member-type", "MAN-2", f"the type of {name}")
    return parent[name]


def check_manifest(manifest: dict[str, Any], payload_nbytes: int) -> None:
    """Work through phase 6."""
    member(manifest, "kind", str)
    member(manifest, "metadata", dict)
    producer = member(manifest, "producer", dict)
    member(producer, "name", str)
    member(producer, "version", str)
    shard = member(manifest, "shard", dict)
    check_place(shard)
    for axis in ("tp", "pp", "ep"):
        if axis in shard:
            check_place(member(shard, axis, dict))
    check_storages(member(manifest, "storages", list), payload_nbytes)
    for name, tensor in member(manifest, "tensors", dict).items():
        check_tensor(name, tensor, manifest["storages"])


def check_place(place: dict[str, Any]) -> None:
    rank, size = member(place, "rank", int), member(place, "size", int)
    good = 1 <= size <= 99999 and 0 <= rank < size
    require(good, "bad-shard", "MAN-5", f"rank {rank} of {size}")


# 8. Storages


def check_storages(storages: list[Any], payload_nbytes: int) -> None:
    end = 0
    for storage in storages:
        require(type(storage) is dict, "bad-member-type", "MAN-2", "a storage")
        offset, nbytes = member(storage, "offset", int), member(storage, "nbytes", int)
        aligned = offset >= 0 and offset % 512 == 0
        require(aligned, "misaligned-storage", "STO-1", f"offset {offset}")
        inside = nbytes >= 0 and offset + nbytes <= payload_nbytes
        require(inside, "storage-out-of-bounds", "STO-2", f"{offset} + {nbytes}")
        require(offset >= end, "storage-overlap", "STO-3", f"offset {offset}")
        end = offset + nbytes


# 9. Tensors

SIZES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e4m3fnuz"), 1),
    **dict.fromkeys(("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}


def check_tensor(name: str, tensor: Any, storages: list[Any]) -> None:
    good = 1 <= len(name.encode()) <= 4096 and "\0" not in name
    require(good, "bad-name", "TEN-1", repr(name[:50]))
    require(type(tensor) is dict, "bad-member-type", "MAN-2", f"tensor {name}")
    dtype, shape = member(tensor, "dtype", str), integers(tensor, "shape")
    stride, index = integers(tensor, "stride"), member(tensor, "storage", int)
    offset = member(tensor, "offset", int)
    require(dtype in SIZES, "unknown-dtype", "TEN-2", f"{name}: {dtype}")
    good = len(shape) == len(stride) <= 64 and min([0, *shape, *stride]) == 0
    require(good, "bad-shape", "TEN-3", f"{name}: shape {shape}, stride {stride}")
    require(0 <= index < len(storages), "bad-storage-index", "TEN-4", f"{name}: {index}")
    aligned = offset >= 0 and offset % SIZES[dtype] == 0
    require(aligned, "misaligned-tensor", "TEN-5", f"{name}: offset {offset}")
    largest = max(nbytes_of(tensor), extent_of(tensor))
    require(largest < 1 << 63, "tensor-overflow", "TEN-6", name)
    inside = offset + extent_of(tensor) <= storages[index]["nbytes"]
    require(inside, "tensor-out-of-bounds", "TEN-7", name)


def integers(parent: dict[str, Any], name: str) -> list[int]:
    found: list[int] = member(parent, name, list)
    plain = all(type(each) is int for each in found)
    require(plain, "bad-member-type", "MAN-2", f"the elements of {name}")
    return found


def nbytes_of(tensor: dict[str, Any]) -> int:
    nbytes = SIZES[tensor["dtype"]]
    for size in tensor["shape"]:
        nbytes *= int(size)
    return nbytes


def extent_of(tensor: dict[str, Any]) -> int:
    if 0 in tensor["shape"]:
        return 0
    steps = zip(tensor["shape"], tensor["stride"], strict=True)
    last = sum((int(size) - 1) * int(step) for size, step in steps)
    return (1 + last) * SIZES[tensor["dtype"]]


# 10. Payload, digests and padding


def verify_payload(shard: Shard) -> None:
    """Work through phase 7."""
    payload = shard.section(PAYLOAD)
    for index, expected in enumerate(shard.digests):
        start = payload.offset + index * shard.chunk_nbytes
        found = crc_of_range(shard, start, min(start + shard.chunk_nbytes, payload.end))
        require(found == expected, "chunk-checksum", "PAY-1", f"chunk {index}")
    storages = [
        (payload.offset + s["offset"], payload.offset + s["offset"] + s["nbytes"])
        for s in shard.manifest["storages"]
    ]
    check_gaps(shard, payload.offset, payload.end, storages)
    sections = [(section.offset, section.end) for section in in_file_order(shard)]
    check_gaps(shard, 4096, shard.size, sections)
    for section in shard.sections:
        if section.kind not in (MANIFEST, DIGESTS, PAYLOAD):
            found = crc_of_range(shard, section.offset, section.end)
            require(found == section.crc, "section-checksum", "SEC-13", f"type {section.kind}")
    verify_hashes(shard)


def verify_hashes(shard: Shard) -> None:
    """Check the section of 10.1; a reader may leave this out."""
    found = [section for section in shard.sections if section.kind == HASHES]
    if not found:
        return
    payload, manifest, count = shard.section(PAYLOAD), shard.section(MANIFEST), len(shard.digests)
    good = len(found) == 1 and found[0].nbytes == 64 + 32 * count
    require(good, "bad-hash-section", "HASH-1", f"{len(found)} sections of hashes")
    head = shard.read(found[0].offset, 64)
    good = head[:32] == b"sha256".ljust(32, b"\0")
    require(good, "bad-hash-section", "HASH-1", "unknown algorithm or reserved bytes")
    root = hashlib.sha256(b"thaw root sha256" + shard.snapshot_id)
    root.update(struct.pack("<QQ", shard.chunk_nbytes, payload.nbytes))
    root.update(sha256_of_range(shard, manifest.offset, manifest.end))
    for index in range(count):
        start = payload.offset + index * shard.chunk_nbytes
        hashed = sha256_of_range(shard, start, min(start + shard.chunk_nbytes, payload.end))
        stored = shard.read(found[0].offset + 64 + 32 * index, 32)
        require(hashed == stored, "chunk-hash", "HASH-2", f"chunk {index}")
        root.update(hashed)
    require(root.digest() == head[32:], "chunk-hash", "HASH-2", "the root")


def sha256_of_range(shard: Shard, start: int, end: int) -> bytes:
    digest = hashlib.sha256()
    for piece in shard.pieces(start, end):
        digest.update(piece)
    return digest.digest()


def crc_of_range(shard: Shard, start: int, end: int) -> int:
    crc = 0
    for piece in shard.pieces(start, end):
        crc = crc32c(piece, crc)
    return crc


def check_gaps(shard: Shard, at: int, end: int, used: list[tuple[int, int]]) -> None:
    for start, stop in [*used, (end, end)]:
        for piece in shard.pieces(at, start):
            require(not piece.strip(b"\0"), "nonzero-padding", "PAY-3", f"after byte {at}")
        at = max(at, stop)


def open_shard(file: IO[bytes], size: int, check: Callable[[Shard], None] | None = None) -> Shard:
    """Open a shard (phases 1 to 6); `check` is called after phase 2."""
    shard = Shard(file, size)
    superblock = read_superblock(shard)
    if check:
        check(shard)
    read_sections(shard, superblock)
    text = checked_section(shard, MANIFEST, "manifest-checksum", "SEC-11")
    table = checked_section(shard, DIGESTS, "digests-checksum", "SEC-12")
    shard.digests = tuple(value for (value,) in struct.iter_unpack("<I", table))
    shard.manifest = parse_json(text)
    check_manifest(shard.manifest, shard.section(PAYLOAD).nbytes)
    return shard


# 12. Several ranks


def open_set(folder: str) -> list[Shard]:
    index = read_index(os.path.join(folder, "snapshot.json"))
    count = len(index["ranks"])
    for rank, entry in enumerate(index["ranks"]):
        name = f"rank-{rank:05d}-of-{count:05d}.thaw"
        require(entry["file"] == name, "set-file-name", "SET-4", entry["file"])
    shards: list[Shard] = []
    for rank in range(count):
        shards.append(open_member(folder, index, rank))
        kinds = {shard.manifest["kind"] for shard in (shards[0], shards[-1])}
        require(len(kinds) == 1, "set-kind", "SET-12", f"rank {rank}: {kinds}")
    check_places([shard.manifest["shard"] for shard in shards])
    return shards


def read_index(path: str) -> dict[str, Any]:
    require(is_file(path), "set-missing-index", "SET-1", "no snapshot.json")
    with open(path, "rb") as file:
        data = file.read((1 << 24) + 1)
    bad_index(len(data) <= 1 << 24, "too large")
    try:
        index = parse_json(data)
    except Error as error:
        if error.code == "limit":
            raise
        raise Error("set-bad-index", "SET-2", error.message) from None
    bad_index(type(index.get("major")) is int, "major")
    require(index["major"] == 1, "set-version", "SET-3", f"version {index['major']}")
    check_index_crc(index, data)
    needed = index.get("required_features", [])
    bad_index(type(needed) is list, "required_features")
    bad_index(all(type(each) is str for each in needed), "an element of required_features")
    require(not needed, "set-unknown-feature", "SET-11", f"needs {needed}")
    check_index(index)
    return index


def bad_index(condition: bool, message: str) -> None:
    require(condition, "set-bad-index", "SET-2", message)


def is_file(path: str) -> bool:
    """Say whether this is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise


def check_index_crc(index: dict[str, Any], data: bytes) -> None:
    before, found, after = data.partition(b'"crc32c":"')
    digits = after[:8]
    once = found and b'"crc32c":"' not in after and re.fullmatch(rb"[0-9a-f]{8}", digits)
    require(bool(once), "set-checksum", "SET-10", "not one crc32c of eight digits")
    same = index.get("crc32c") == digits.decode()
    require(same, "set-checksum", "SET-10", "crc32c is not a member of the index itself")
    expected = crc32c(before + found + b"00000000" + after[8:])
    require(int(digits, 16) == expected, "set-checksum", "SET-10", f"{expected:08x} expected")


def check_index(index: dict[str, Any]) -> None:
    bad_index(type(index.get("minor")) is int, "minor")
    hexadecimal(index.get("snapshot_id"), 32)
    bad_index(type(index.get("metadata", {})) is dict, "metadata")
    bad_index(type(index.get("ranks")) is list, "ranks")
    bad_index(1 <= len(index["ranks"]) <= 99999, "the number of ranks")
    for entry in index["ranks"]:
        bad_index(type(entry) is dict, "an element of ranks")
        bad_index(type(entry.get("file")) is str, "a file name")
        bad_index(type(entry.get("nbytes")) is int, "a size")
        hexadecimal(entry.get("root_digest"), 8)


def hexadecimal(text: Any, digits: int) -> None:
    bad_index(type(text) is str, "not a string")
    bad_index(re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is not None, text[:50])


def check_places(places: list[dict[str, Any]]) -> None:
    """Check that all ranks say the same of the parallelism, and fill every place alike."""
    for axis in ("tp", "pp", "ep"):
        sizes = {place[axis]["size"] if axis in place else None for place in places}
        require(len(sizes) == 1, "set-place", "SET-13", f"sizes of {axis}: {sizes}")
    one = {"rank": 0, "size": 1}
    tp, pp = places[0].get("tp", one), places[0].get("pp", one)
    product = tp["size"] * pp["size"]
    pairs = Counter((p.get("tp", one)["rank"], p.get("pp", one)["rank"]) for p in places)
    alike = all(found * product == len(places) for found in pairs.values())
    require(alike, "set-place", "SET-13", f"tp and pp ranks: {sorted(pairs)[:5]}")


def open_member(folder: str, index: dict[str, Any], rank: int) -> Shard:
    entry, count = index["ranks"][rank], len(index["ranks"])
    path = os.path.join(folder, entry["file"])
    require(is_file(path), "set-missing-rank", "SET-5", entry["file"])
    size = os.path.getsize(path)
    require(size == entry["nbytes"], "set-size", "SET-6", entry["file"])

    def check(shard: Shard) -> None:
        found = f"{shard.root_digest:08x}"
        require(found == entry["root_digest"], "set-root-digest", "SET-7", entry["file"])
        same = shard.snapshot_id.hex() == index["snapshot_id"]
        require(same, "set-snapshot-id", "SET-8", entry["file"])

    shard = open_file(path, size, check)
    place = shard.manifest["shard"]
    right = (place["rank"], place["size"]) == (rank, count)
    require(right, "set-rank", "SET-9", entry["file"])
    return shard


def open_path(path: str) -> list[Shard]:
    """Open a file or folder."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return open_set(path)
    require(stat.S_ISREG(mode), "not-a-file", "PATH-1", f"{path} is no file")
    return [open_file(path, os.path.getsize(path))]


def open_file(path: str, size: int, check: Callable[[Shard], None] | None = None) -> Shard:
    """Open a shard; its file is closed until more of it is read, since a set may have many."""
    with open(path, "rb") as file:
        shard = open_shard(file, size, check)
        shard.version = version_of(file)
    shard.path = path
    return shard


# 13. Compliance: the tensor table


def table(shards: list[Shard]) -> list[dict[str, Any]]:
    rows = []
    for shard in shards:
        tensors = shard.manifest["tensors"]
        total = sum(nbytes_of(tensor) for tensor in tensors.values())
        require(total <= 1024 * shard.size + (16 << 20), "limit", "CON-3", f"{total} bytes")
        rank = shard.manifest["shard"]["rank"]
        for name in sorted(tensors):
            known = ("dtype", "shape", "stride", "storage", "offset")
            row = {"rank": rank, "name": name} | {key: tensors[name][key] for key in known}
            rows.append(row | {"sha256": sha256_of(shard, tensors[name])})
        shard.file.close()
    return rows


def sha256_of(shard: Shard, tensor: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    start = shard.section(PAYLOAD).offset + tensor["offset"]
    start += shard.manifest["storages"][tensor["storage"]]["offset"]
    end = start + extent_of(tensor)
    if in_order(tensor):
        for piece in shard.pieces(start, end):
            digest.update(piece)
    elif nbytes_of(tensor):
        digest.update(elements(shard.read(start, end - start), tensor))
    return digest.hexdigest()


def in_order(tensor: dict[str, Any]) -> bool:
    """Say whether the elements stand in the file in index order, without gaps."""
    count = 1
    for size, step in zip(reversed(tensor["shape"]), reversed(tensor["stride"]), strict=True):
        if size > 1 and step != count:
            return False
        count *= size
    return True


WORDS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def elements(extent: bytes, tensor: dict[str, Any]) -> bytes:
    """Return the elements in index order, the last index running fastest."""
    width = min(SIZES[tensor["dtype"]], 8)
    words = SIZES[tensor["dtype"]] // width
    view = memoryview(extent).cast(WORDS[width])
    steps = zip(tensor["shape"], tensor["stride"], strict=True)
    dimensions = [(size, step * words) for size, step in steps if size > 1]
    return gather(view, [*dimensions, (words, 1)], 0)


def gather(view: memoryview[int], dimensions: list[tuple[int, int]], start: int) -> bytes:
    (size, step), rest = dimensions[0], dimensions[1:]
    if size == 1 and rest:
        return gather(view, rest, start)
    if step == 0:
        return gather(view, rest, start) * size
    if rest in ([], [(1, 1)]):
        return view[start : start + (size - 1) * step + 1 : step].tobytes()
    return b"".join(gather(view, rest, start + index * step) for index in range(size))


def main(path: str) -> int:
    shards: list[Shard] = []
    try:
        shards = open_path(path)
        for shard in shards:
            verify_payload(shard)
            shard.file.close()
        print(json.dumps({"tensors": table(shards)}))
        return 0
    except Error as error:
        found = {"code": error.code, "rule": error.rule, "message": error.message}
    except OSError as error:
        found = {"code": "io", "rule": None, "message": str(error)}
    finally:
        for shard in shards:
            shard.file.close()
    print(json.dumps(found), file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: reader.py PATH")
    sys.exit(main(sys.argv[1]))
