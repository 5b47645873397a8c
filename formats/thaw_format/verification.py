"""Verification: every byte that opening does not check (specification, section 10)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

from .checksum import HostBuffer, extend
from .codes import format_error
from .errors import FormatError, naming
from .shard import ShardFile
from .snapshot import Snapshot
from .superblock import PAYLOAD, SUPERBLOCK_NBYTES, Superblock

_PIECE_NBYTES = 4 << 20


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
