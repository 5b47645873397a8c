"""The superblock and its section table (specification, sections 4 and 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise

from .checksum import crc32c
from .codes import format_error

MAGIC = bytes.fromhex("89 54 48 41 57 0D 0A 1A")
FOREIGN_MAGIC = b"THAW"
MAJOR, MINOR = 1, 0
SUPERBLOCK_NBYTES = 4096
PAYLOAD_ALIGNMENT = 4096
# What writers keep to (section 2): pages may be that large where a file is mapped.
SECTION_ALIGNMENT, MAPPING_ALIGNMENT = 64, 65536
STORAGE_ALIGNMENT = 512
DEFAULT_CHUNK_NBYTES = 4 << 20
MIN_CHUNK_NBYTES, MAX_CHUNK_NBYTES = 1 << 12, 1 << 30
MAX_SECTIONS = 64
MAX_MANIFEST_NBYTES = 1 << 28

MANIFEST, DIGESTS, PAYLOAD, HASHES = 1, 2, 3, 4
_KNOWN = {MANIFEST: "manifest", DIGESTS: "digests", PAYLOAD: "payload"}
_REQUIRED_FLAG = 1
_FIRST_PRIVATE, _NAME_NBYTES = 1 << 31, 16

_HEAD = struct.Struct("<8sHHIQQQQ16s")
_ENTRY = struct.Struct("<IIQQII")
_TABLE_OFFSET = 256
_CRC_OFFSET = SUPERBLOCK_NBYTES - 4


def align(nbytes: int, alignment: int) -> int:
    """Round up to a multiple."""
    return -(-nbytes // alignment) * alignment


@dataclass(frozen=True, slots=True)
class Section:
    """A typed byte range of a file; `offset` counts from the start of the file."""

    type: int
    offset: int
    nbytes: int
    crc32c: int = 0
    flags: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fixed 4096 bytes at the start of a shard."""

    file_nbytes: int
    snapshot_id: bytes
    sections: tuple[Section, ...]
    chunk_nbytes: int = DEFAULT_CHUNK_NBYTES
    major: int = MAJOR
    minor: int = MINOR
    compatible_features: int = 0
    required_features: int = 0
    crc32c: int = field(default=0, compare=False)

    def section(self, kind: int) -> Section:
        """Return the one section of a known type."""
        return next(section for section in self.sections if section.type == kind)

    @property
    def extensions(self) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if section.type not in _KNOWN)


def serialize_superblock(superblock: Superblock) -> bytes:
    """Lay out a superblock with its checksum, 4096 bytes."""
    data = bytearray(SUPERBLOCK_NBYTES)
    _HEAD.pack_into(
        data,
        0,
        MAGIC,
        superblock.major,
        superblock.minor,
        len(superblock.sections),
        superblock.compatible_features,
        superblock.required_features,
        superblock.file_nbytes,
        superblock.chunk_nbytes,
        superblock.snapshot_id,
    )
    for index, each in enumerate(superblock.sections):
        at = _TABLE_OFFSET + index * _ENTRY.size
        _ENTRY.pack_into(data, at, each.type, each.flags, each.offset, each.nbytes, each.crc32c, 0)
    struct.pack_into("<I", data, _CRC_OFFSET, crc32c(bytes(data[:_CRC_OFFSET])))
    return bytes(data)


def parse_superblock(data: bytes, file_nbytes: int) -> Superblock:
    """Parse the first bytes of a file, checking rules SB-1 to SB-13, SEC-1 to SEC-10 and SEC-15.

    Args:
        data: the first 4096 bytes of the file, or all of it if it is shorter.
        file_nbytes: the size that the file really has.

    Raises:
        FormatError: with the code of the rule that is broken.
    """
    superblock = parse_fields(data, file_nbytes)
    check_sections(superblock)
    return superblock


def parse_fields(data: bytes, file_nbytes: int) -> Superblock:
    """Parse the first bytes of a file as `parse_superblock`, but check no sections: phases 1, 2."""
    _check_magic(data)
    superblock = _unpack(data)
    _check_fields(superblock, file_nbytes)
    return superblock


def _check_magic(data: bytes) -> None:
    if data.startswith(FOREIGN_MAGIC):
        raise format_error(
            "foreign-magic", "a file of another project that uses the magic THAW", offset=0
        )
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise format_error("bad-magic", f"not a .thaw file: {describe(data)}", offset=0)
    if len(data) < SUPERBLOCK_NBYTES:
        what = f"only {len(data)} bytes" if data else "an empty file"
        raise format_error(
            "truncated-superblock", f"{what}; a superblock has {SUPERBLOCK_NBYTES}", offset=0
        )


_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "it is a GGUF file"),
    (0, b"PK\x03\x04", "it is a zip archive (torch.save writes those; thaw reads no pickles)"),
    (0, b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
    (0, b"\x93NUMPY", "it is a NumPy file"),
    (0, b"\x80\x02", "it is a pickle (old torch.save; thaw reads none)"),
    (0, b"<!DOCTYPE", "it is an HTML page: download the file again"),
    (0, b"<html", "it is an HTML page: download the file again"),
    (0, b"{", "it looks like JSON text"),
    (0, b"\x1f\x8b", "it is gzip-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "it is zstd-compressed"),
    (0, b"version https://git-lfs", "it is a Git LFS pointer: fetch the real file"),
    (0, b"\x89THAW", "its magic was changed, as by a transfer in text mode"),
    (8, b"{", "it looks like a .safetensors file"),
    (0, bytes(16), "it begins with zeros, as an unfinished snapshot does"),
)


def describe(data: bytes) -> str:
    """Say what a file that begins with these bytes seems to be."""
    for offset, signature, what in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return what
    return f"it begins with {data[:8].hex(' ')}"


def _unpack(data: bytes) -> Superblock:
    _, major, minor, count, compatible, required, nbytes, chunk, snapshot_id = _HEAD.unpack_from(
        data
    )
    if major != MAJOR:
        raise format_error(
            "unknown-major-version",
            f"format version {major}.{minor}; this reader knows {MAJOR}.x",
            offset=8,
        )
    (stored,) = struct.unpack_from("<I", data, _CRC_OFFSET)
    if (found := crc32c(data[:_CRC_OFFSET])) != stored:
        raise format_error(
            "superblock-checksum",
            f"the superblock's CRC32C is {found:08x}, expected {stored:08x}",
            offset=_CRC_OFFSET,
        )
    if required:
        raise format_error(
            "unknown-required-feature",
            f"needs features {required:#x} that this reader lacks; use a newer version of thaw",
            offset=24,
        )
    if count > MAX_SECTIONS:
        raise format_error(
            "bad-section-count", f"{count} sections; at most {MAX_SECTIONS} fit", offset=12
        )
    return Superblock(
        nbytes, snapshot_id, _entries(data, count), chunk, major, minor, compatible, 0, stored
    )


def _entries(data: bytes, count: int) -> tuple[Section, ...]:
    found = (_ENTRY.unpack_from(data, _TABLE_OFFSET + i * _ENTRY.size) for i in range(count))
    return tuple(
        Section(kind, offset, nbytes, crc, flags) for kind, flags, offset, nbytes, crc, _ in found
    )


def _check_fields(superblock: Superblock, file_nbytes: int) -> None:
    expected = superblock.file_nbytes
    if file_nbytes < expected:
        raise format_error(
            "truncated-file",
            f"the file has {file_nbytes} bytes, its superblock says {expected}",
            offset=file_nbytes,
        )
    if file_nbytes > expected:
        raise format_error(
            "trailing-bytes",
            f"the file has {file_nbytes} bytes, its superblock says {expected}",
            offset=expected,
        )
    chunk = superblock.chunk_nbytes
    if chunk & (chunk - 1) or not MIN_CHUNK_NBYTES <= chunk <= MAX_CHUNK_NBYTES:
        raise format_error("bad-chunk-size", f"chunks of {chunk} bytes", offset=40)


def check_sections(superblock: Superblock) -> None:
    """Check the section table (phase 3)."""
    for section in superblock.sections:
        _check_section(section, superblock.file_nbytes)
    for kind, name in _KNOWN.items():
        count = sum(section.type == kind for section in superblock.sections)
        if count != 1:
            code = "duplicate-section" if count else "missing-section"
            raise format_error(code, f"{count} {name} sections; one is needed", offset=256)
    _check_overlap(superblock.sections)
    _check_sizes(superblock)


def _check_section(section: Section, file_nbytes: int) -> None:
    name = _KNOWN.get(section.type, f"type {section.type:#x}")
    if section.end >= 1 << 64:
        raise format_error("section-overflow", f"section ({name}) ends beyond 2^64")
    if section.offset < SUPERBLOCK_NBYTES or section.end > file_nbytes:
        raise format_error(
            "section-out-of-bounds",
            f"section ({name}) at {section.offset}, {section.nbytes} bytes, in {file_nbytes}",
        )
    if section.type not in _KNOWN and section.flags & _REQUIRED_FLAG:
        raise format_error(
            "unknown-required-section", f"needs a section of unknown type {section.type:#x}"
        )
    if section.type >= _FIRST_PRIVATE and section.nbytes < _NAME_NBYTES:
        raise format_error(
            "bad-private-section",
            f"section ({name}) has {section.nbytes} bytes, no room for its name of {_NAME_NBYTES}",
        )


def _check_overlap(sections: tuple[Section, ...]) -> None:
    ordered = sorted((s for s in sections if s.nbytes), key=lambda s: s.offset)
    for before, after in pairwise(ordered):
        if after.offset < before.end:
            raise format_error(
                "section-overlap", f"two sections share byte {after.offset}", offset=after.offset
            )


def _check_sizes(superblock: Superblock) -> None:
    manifest, digests = superblock.section(MANIFEST), superblock.section(DIGESTS)
    payload = superblock.section(PAYLOAD)
    if payload.offset % PAYLOAD_ALIGNMENT:
        raise format_error("misaligned-payload", f"the payload begins at {payload.offset}")
    if not 2 <= manifest.nbytes <= MAX_MANIFEST_NBYTES:
        raise format_error("bad-manifest-size", f"a manifest of {manifest.nbytes} bytes")
    expected = 4 * -(-payload.nbytes // superblock.chunk_nbytes)
    if digests.nbytes != expected:
        raise format_error(
            "bad-digest-count", f"a digest table of {digests.nbytes} bytes, expected {expected}"
        )
