"""How a plan is cut into runs of the file that are moved at once, for backends that cut alike."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from thaw_format import Chunks

from .plan import Extents, ReadPlan, WritePlan


class Part(NamedTuple):
    """What of a piece belongs to one extent: from `start` in the file, at `address` in memory."""

    start: int
    nbytes: int
    address: int
    on_host: bool


class ChunkPart(NamedTuple):
    """What of a piece belongs to one chunk, from `start` in the file."""

    chunk: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of the file, with the memory and the chunks that have a share in it, in file order.

    Bytes of no part lie between those that are wanted; of a write they are zero.
    """

    start: int
    nbytes: int
    parts: tuple[Part, ...]
    chunk_parts: tuple[ChunkPart, ...]

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    @property
    def wanted_nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def cut_read(plan: ReadPlan, piece_nbytes: int) -> Iterator[Piece]:
    """Cut into pieces what a read needs: the chunks that extents touch, or the extents alone.

    A piece reaches over no multiple of `piece_nbytes` in the file.
    """
    chunks = plan.digests.chunks if plan.digests is not None else None
    return _cut(runs_to_read(plan), plan.extents, chunks, piece_nbytes)


def cut_write(plan: WritePlan, piece_nbytes: int) -> Iterator[Piece]:
    """Cut into pieces what a write makes, the whole payload, as `cut_read` does."""
    run = plan.chunks.offset, plan.chunks.offset + plan.chunks.nbytes
    return _cut([run], plan.extents, plan.chunks, piece_nbytes)


def runs_to_read(plan: ReadPlan) -> list[tuple[int, int]]:
    """List what a read needs, as the starts and ends of runs that do not touch each other."""
    runs: list[tuple[int, int]] = []
    chunks = plan.digests.chunks if plan.digests is not None else None
    for start, nbytes in zip(plan.extents.offsets, plan.extents.sizes, strict=True):
        end = start + nbytes
        if chunks is not None:
            start = chunks.span((start - chunks.offset) // chunks.chunk_nbytes)[0]
            end = chunks.span((end - 1 - chunks.offset) // chunks.chunk_nbytes)[1]
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs


def _cut(
    runs: Iterable[tuple[int, int]], extents: Extents, chunks: Chunks | None, piece_nbytes: int
) -> Iterator[Piece]:
    ends = [start + size for start, size in zip(extents.offsets, extents.sizes, strict=True)]
    for start, run_end in runs:
        while start < run_end:
            end = min(start - start % piece_nbytes + piece_nbytes, run_end)
            parts = _parts(extents, bisect_right(ends, start), start, end)
            chunk_parts = _chunk_parts(chunks, start, end) if chunks is not None else ()
            yield Piece(start, end - start, tuple(parts), tuple(chunk_parts))
            start = end


def _parts(extents: Extents, index: int, start: int, end: int) -> Iterator[Part]:
    offsets, sizes, addresses = extents.offsets, extents.sizes, extents.addresses
    all_on_host = extents.device.type == "cpu"
    while index < len(offsets) and (offset := offsets[index]) < end:
        first, last = max(start, offset), min(end, offset + sizes[index])
        on_host = bool(extents.on_host[index]) if extents.on_host else all_on_host
        yield Part(first, last - first, addresses[index] + first - offset, on_host)
        index += 1


def _chunk_parts(chunks: Chunks, start: int, end: int) -> Iterator[ChunkPart]:
    while start < end:
        index = (start - chunks.offset) // chunks.chunk_nbytes
        stop = min(end, chunks.span(index)[1])
        yield ChunkPart(index, start, stop - start)
        start = stop
