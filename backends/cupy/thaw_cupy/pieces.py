"""Pieces: how a plan is cut into runs of the file that fit a pinned buffer. Nothing moves here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thaw import Chunks, Extent, ReadPlan, WritePlan


@dataclass(frozen=True, slots=True)
class Part:
    """What of a piece belongs to one extent: from `start` in the file, at `address` in memory."""

    start: int
    nbytes: int
    address: int
    on_device: bool


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """What of a piece belongs to one chunk; `is_last` where the chunk ends with it."""

    index: int
    start: int
    nbytes: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of the file, with the memory and the chunks that have a share in it."""

    start: int
    nbytes: int
    parts: tuple[Part, ...]
    chunk_parts: tuple[ChunkPart, ...]

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    @property
    def wanted_nbytes(self) -> int:
        """The bytes of it that belong to extents; others lie between those."""
        return sum(part.nbytes for part in self.parts)

    @property
    def device_address(self) -> int | None:
        """Where all of it lies in device memory, one byte behind the other, if it does."""
        if len(self.parts) == 1 and self.parts[0].on_device and self.wanted_nbytes == self.nbytes:
            return self.parts[0].address
        return None


def cut_read(plan: ReadPlan, piece_nbytes: int) -> Iterator[Piece]:
    """Cut into pieces what a read needs: the chunks that extents touch, or the extents alone."""
    chunks = plan.digests.chunks if plan.digests is not None else None
    return _cut(_runs(plan.extents, chunks), plan.extents, chunks, piece_nbytes)


def cut_write(plan: WritePlan, piece_nbytes: int) -> Iterator[Piece]:
    """Cut into pieces what a write makes: the whole payload."""
    run = plan.chunks.offset, plan.chunks.offset + plan.chunks.nbytes
    return _cut([run], plan.extents, plan.chunks, piece_nbytes)


def _runs(extents: Sequence[Extent], chunks: Chunks | None) -> list[tuple[int, int]]:
    """List what has to be read, as the starts and ends of runs that do not touch each other."""
    runs: list[tuple[int, int]] = []
    for extent in extents:
        start, end = extent.offset, extent.end
        if chunks is not None:
            start = chunks.span((start - chunks.offset) // chunks.chunk_nbytes)[0]
            end = chunks.span((end - 1 - chunks.offset) // chunks.chunk_nbytes)[1]
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs


def _cut(
    runs: Sequence[tuple[int, int]],
    extents: Sequence[Extent],
    chunks: Chunks | None,
    piece_nbytes: int,
) -> Iterator[Piece]:
    ends = [extent.end for extent in extents]
    for run_start, run_end in runs:
        for start in range(run_start, run_end, piece_nbytes):
            end = min(start + piece_nbytes, run_end)
            parts = _parts(extents, bisect_right(ends, start), start, end)
            chunk_parts = _chunk_parts(chunks, start, end) if chunks is not None else ()
            yield Piece(start, end - start, tuple(parts), tuple(chunk_parts))


def _parts(extents: Sequence[Extent], index: int, start: int, end: int) -> Iterator[Part]:
    while index < len(extents) and extents[index].offset < end:
        extent = extents[index]
        first, last = max(start, extent.offset), min(end, extent.end)
        address = extent.address + first - extent.offset
        yield Part(first, last - first, address, extent.device.type == "cuda")
        index += 1


def _chunk_parts(chunks: Chunks, start: int, end: int) -> Iterator[ChunkPart]:
    while start < end:
        index = (start - chunks.offset) // chunks.chunk_nbytes
        chunk_end = chunks.span(index)[1]
        stop = min(end, chunk_end)
        yield ChunkPart(index, start, stop - start, is_last=stop == chunk_end)
        start = stop
