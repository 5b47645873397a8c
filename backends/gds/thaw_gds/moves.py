"""What is moved in one piece: planned from extents and chunks, with no device at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from thaw import Chunks, Extent, ReadPlan

PAGE_NBYTES = 4096

_DIRECT_NBYTES = 256 << 10


class Copy(NamedTuple):
    """Memory of an extent and where in a staged move its bytes are."""

    at: int
    memory: torch.Tensor


class Move(NamedTuple):
    """One read or write: straight from or to an extent, or by way of staging.

    Attributes:
        offset: where in the file.
        address: the memory of the extent; 0 if the move is staged.
        copies: what of a staged move belongs to extents; the rest belongs to none.
    """

    offset: int
    nbytes: int
    address: int = 0
    copies: tuple[Copy, ...] = ()

    @property
    def wanted_nbytes(self) -> int:
        return self.nbytes if self.address else sum(copy.memory.numel() for copy in self.copies)


class Piece(NamedTuple):
    """A run of the file within one extent, or in none."""

    offset: int
    nbytes: int
    extent: Extent | None

    @property
    def memory(self) -> torch.Tensor | None:
        if self.extent is None:
            return None
        start = self.offset - self.extent.offset
        return self.extent.memory[start : start + self.nbytes]


def read_spans(plan: ReadPlan) -> list[tuple[int, int]]:
    """Return the runs of the file to read: touched chunks whole, or else the extents."""
    spans: list[tuple[int, int]] = []
    for extent in plan.extents:
        start, end = extent.offset, extent.end
        if plan.digests is not None:
            chunks = plan.digests.chunks
            start = chunks.span((start - chunks.offset) // chunks.chunk_nbytes)[0]
            end = chunks.span((end - 1 - chunks.offset) // chunks.chunk_nbytes)[1]
        if spans and start <= spans[-1][1]:
            start, end = spans[-1][0], max(end, spans[-1][1])
            spans.pop()
        spans.append((start, end))
    return spans


def plan_moves(
    spans: Iterable[tuple[int, int]],
    extents: Sequence[Extent],
    piece_nbytes: int,
    *,
    staged_only: bool = False,
) -> Iterator[Move]:
    """Cut spans into moves in file order that cover each span.

    A move reaches over no multiple of `piece_nbytes`. Long runs of an extent move directly, but
    whole pages of the file only: two writes that share a page would undo each other under GDS.

    Args:
        staged_only: move nothing directly.
    """
    index = 0
    for start, end in spans:
        while index < len(extents) and extents[index].end <= start:
            index += 1
        staged: list[Piece] = []
        for piece in _cut(_pieces(start, end, extents, index), piece_nbytes):
            if staged and piece.offset % piece_nbytes == 0:
                yield _staged(staged)
                staged = []
            head = _up(piece.offset)
            tail = max(head, _down(piece.offset + piece.nbytes))
            if staged_only or piece.extent is None or tail - head < _DIRECT_NBYTES:
                staged.append(piece)
                continue
            if head > piece.offset:
                staged.append(piece._replace(nbytes=head - piece.offset))
            if staged:
                yield _staged(staged)
            address = piece.extent.address + head - piece.extent.offset
            yield Move(head, tail - head, address)
            rest = piece.offset + piece.nbytes - tail
            staged = [piece._replace(offset=tail, nbytes=rest)] if rest else []
        if staged:
            yield _staged(staged)


def _pieces(start: int, end: int, extents: Sequence[Extent], index: int) -> Iterator[Piece]:
    while start < end:
        extent = extents[index] if index < len(extents) else None
        if extent is None or extent.offset >= end:
            yield Piece(start, end - start, None)
            return
        if extent.offset > start:
            yield Piece(start, extent.offset - start, None)
            start = extent.offset
        stop = min(extent.end, end)
        yield Piece(start, stop - start, extent)
        start, index = stop, index + 1


def _cut(pieces: Iterable[Piece], piece_nbytes: int) -> Iterator[Piece]:
    for offset, nbytes, extent in pieces:
        end = offset + nbytes
        while offset < end:
            stop = min(end, offset - offset % piece_nbytes + piece_nbytes)
            yield Piece(offset, stop - offset, extent)
            offset = stop


def _staged(pieces: list[Piece]) -> Move:
    offset = pieces[0].offset
    nbytes = pieces[-1].offset + pieces[-1].nbytes - offset
    copies = [
        Copy(piece.offset - offset, memory)
        for piece in pieces
        if (memory := piece.memory) is not None
    ]
    return Move(offset, nbytes, 0, tuple(copies))


@dataclass(slots=True)
class Batch:
    """Moves that are waited for together, and where in the staging memory the staged ones are."""

    moves: list[Move] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    nbytes: int = 0
    staged_nbytes: int = 0

    def add(self, move: Move) -> None:
        self.moves.append(move)
        self.slots.append(self.staged_nbytes)
        self.nbytes += move.nbytes
        if not move.address:
            self.staged_nbytes += _up(move.nbytes)

    def addresses(self, staging: int) -> list[int]:
        """Return where each move's bytes are, given where the staging memory begins."""
        slots = zip(self.moves, self.slots, strict=True)
        return [move.address or staging + slot for move, slot in slots]


def batches(moves: Iterable[Move], nbytes: int, staging_nbytes: int) -> Iterator[Batch]:
    """Group moves to at most so many bytes; each alone must fit into the staging memory."""
    batch = Batch()
    for move in moves:
        full = batch.nbytes + move.nbytes > nbytes
        staged = 0 if move.address else _up(move.nbytes)
        if batch.moves and (full or batch.staged_nbytes + staged > staging_nbytes):
            yield batch
            batch = Batch()
        batch.add(move)
    if batch.moves:
        yield batch


class Run(NamedTuple):
    """What a batch holds of one chunk: (device address, nbytes) of its parts in order."""

    chunk: int
    parts: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.parts)


def runs_of(batch: Batch, staging: int, chunks: Chunks) -> list[Run]:
    """Cut what a batch moves by chunks."""
    runs: list[Run] = []
    for move, address in zip(batch.moves, batch.addresses(staging), strict=True):
        at = 0
        while at < move.nbytes:
            index = (move.offset + at - chunks.offset) // chunks.chunk_nbytes
            nbytes = min(move.nbytes - at, chunks.span(index)[1] - move.offset - at)
            if not runs or runs[-1].chunk != index:
                runs.append(Run(index, []))
            runs[-1].parts.append((address + at, nbytes))
            at += nbytes
    return runs


def _down(offset: int) -> int:
    return offset - offset % PAGE_NBYTES


def _up(offset: int) -> int:
    return _down(offset + PAGE_NBYTES - 1)
