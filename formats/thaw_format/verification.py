"""Verification: every byte that opening does not check (specification, section 10)."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable, Iterator

from .checksum import HostBuffer, extend
from .codes import format_error
from .errors import FormatError, naming
from .shard import ShardFile
from .snapshot import Snapshot
from .superblock import HASHES, MANIFEST, PAYLOAD, SUPERBLOCK_NBYTES, Section, Superblock

_PIECE_NBYTES = 4 << 20
_HASH_HEAD_NBYTES = 64
_SHA256 = b"sha256".ljust(32, b"\0")
_ROOT_NAME = b"thaw root sha256"


def verify_shard(shard: ShardFile, progress: Callable[[int], None] | None = None) -> int:
    """Check digests, padding and extension sections; return the number of chunks.

    Args:
        progress: called with the number of bytes just checked.

    Raises:
        ChecksumError: a byte differs from what was written; the message names the tensors.
    """
    with naming(shard.path):
        count = _verify_chunks(shard, progress)
        for start, end in file_gaps(shard.superblock):
            _check_zero(shard, start, end)
        for section in shard.superblock.extensions:
            if _crc(shard, section.offset, section.end) != section.crc32c:
                raise format_error(
                    "section-checksum",
                    f"the section of type {section.type:#x} was damaged",
                    offset=section.offset,
                )
        _verify_hashes(shard)
        return count


def chunk_error(snapshot: Snapshot, source: int, index: int) -> FormatError:
    """Build the error of a chunk that fails its digest, naming the tensors in it."""
    digests = snapshot.digests[source]
    assert digests is not None
    start, end = digests.chunks.span(index)
    names = snapshot.tensors_at(source, start, end)
    listed = ", ".join(repr(name) for name in names[:3]) or "no tensor"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return format_error(
        "chunk-checksum",
        f"chunk {index} (bytes {start} to {end}, {listed}{more}) is damaged: it fails its CRC32C "
        f"{digests.values[index]:08x}",
        path=snapshot.sources[source].path,
        offset=start,
    )


def file_gaps(superblock: Superblock) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of a file that neither the superblock nor a section covers."""
    at = SUPERBLOCK_NBYTES
    for section in sorted(superblock.sections, key=lambda s: s.offset):
        if section.nbytes and section.offset > at:
            yield at, section.offset
        if section.nbytes:
            at = max(at, section.end)
    if at < superblock.file_nbytes:
        yield at, superblock.file_nbytes


def payload_gaps(shard: ShardFile) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of a file that lie in the payload but in no storage."""
    payload = shard.superblock.section(PAYLOAD)
    at = payload.offset
    for storage in shard.storages:
        if storage.offset > at:
            yield at, storage.offset
        at = max(at, storage.offset + storage.nbytes)
    if at < payload.end:
        yield at, payload.end


def _verify_chunks(shard: ShardFile, progress: Callable[[int], None] | None) -> int:
    digests = shard.digests[0]
    assert digests is not None
    for index, expected in enumerate(digests.values):
        start, end = digests.chunks.span(index)
        if _crc(shard, start, end, progress) != expected:
            raise chunk_error(shard, 0, index)
    for start, end in payload_gaps(shard):
        _check_zero(shard, start, end)
    return len(digests.chunks)


def _verify_hashes(shard: ShardFile) -> None:
    """Check the SHA-256 of every chunk and the root, where the file has them (section 10.1)."""
    found = [each for each in shard.superblock.sections if each.type == HASHES]
    if not found:
        return
    digests = shard.digests[0]
    assert digests is not None
    chunks, section = digests.chunks, found[0]
    if len(found) > 1 or section.nbytes != _HASH_HEAD_NBYTES + 32 * len(chunks):
        raise _bad_hashes(section, f"{len(found)} of them, of {section.nbytes} bytes")
    head = _read(shard, section.offset, _HASH_HEAD_NBYTES)
    if head[:32] != _SHA256:
        raise _bad_hashes(section, f"its head is {head[:32].hex()}")
    root = hashlib.sha256(_ROOT_NAME + shard.superblock.snapshot_id)
    root.update(struct.pack("<QQ", chunks.chunk_nbytes, chunks.nbytes))
    manifest = shard.superblock.section(MANIFEST)
    root.update(_sha256(shard, manifest.offset, manifest.end))
    for index in range(len(chunks)):
        at = section.offset + _HASH_HEAD_NBYTES + 32 * index
        hashed = _sha256(shard, *chunks.span(index))
        if hashed != _read(shard, at, 32):
            raise format_error("chunk-hash", f"chunk {index} fails its SHA-256", offset=at)
        root.update(hashed)
    if root.digest() != head[32:]:
        raise format_error("chunk-hash", "the root of the hashes is wrong", offset=section.offset)


def _bad_hashes(section: Section, what: str) -> FormatError:
    message = f"the section of hashes is malformed: {what}"
    return format_error("bad-hash-section", message, offset=section.offset)


def _read(shard: ShardFile, offset: int, nbytes: int) -> bytes:
    return b"".join(bytes(piece) for _, piece in _pieces(shard, offset, offset + nbytes))


def _sha256(shard: ShardFile, start: int, end: int) -> bytes:
    digest = hashlib.sha256()
    for _, piece in _pieces(shard, start, end):
        digest.update(piece)
    return digest.digest()


def _crc(
    shard: ShardFile, start: int, end: int, progress: Callable[[int], None] | None = None
) -> int:
    crc = 0
    for _, piece in _pieces(shard, start, end):
        crc = extend(crc, piece)
        if progress:
            progress(len(piece))
    return crc


def _check_zero(shard: ShardFile, start: int, end: int) -> None:
    for offset, piece in _pieces(shard, start, end):
        data = bytes(piece)
        if left := data.lstrip(b"\0"):
            raise format_error(
                "nonzero-padding",
                "a byte that belongs to nothing is not zero",
                offset=offset + len(data) - len(left),
            )


def _pieces(shard: ShardFile, start: int, end: int) -> Iterator[tuple[int, HostBuffer]]:
    """Read a range of the file piece by piece; each piece is overwritten by the next."""
    whole = (ctypes.c_ubyte * min(_PIECE_NBYTES, end - start))()
    for offset in range(start, end, _PIECE_NBYTES):
        nbytes = min(_PIECE_NBYTES, end - offset)
        piece = whole if nbytes == len(whole) else (ctypes.c_ubyte * nbytes).from_buffer(whole)
        shard.sources[0].read_into(offset, [piece])
        yield offset, piece
