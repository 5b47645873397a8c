"""What is moved in one piece: planned from pieces of a plan, with no device at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from thaw import Chunks, Part, Piece

PAGE_NBYTES = 4096

_DIRECT_NBYTES = 256 << 10


class Copy(NamedTuple):
    """Device memory of an extent, and where in a staged move its bytes are."""

    at: int
    address: int
    nbytes: int


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
        return self.nbytes if self.address else sum(copy.nbytes for copy in self.copies)


def plan_moves(pieces: Iterable[Piece], *, staged_only: bool = False) -> Iterator[Move]:
    """Make moves of pieces, in file order, that cover each.

    Long runs of an extent move directly, but whole pages of the file only: two writes that share a
    page would undo each other under GDS.

    Args:
        staged_only: move nothing directly.
    """
    for piece in pieces:
        at = piece.start
        for part in () if staged_only else piece.parts:
            head, tail = _up(part.start), _down(part.start + part.nbytes)
            if tail - head < _DIRECT_NBYTES:
                continue
            if head > at:
                yield _staged(at, head, piece.parts)
            yield Move(head, tail - head, part.address + head - part.start)
            at = tail
        if piece.end > at:
            yield _staged(at, piece.end, piece.parts)


def _staged(start: int, end: int, parts: Sequence[Part]) -> Move:
    copies = []
    for part in parts:
        first, last = max(start, part.start), min(end, part.start + part.nbytes)
        if first < last:
            copies.append(Copy(first - start, part.address + first - part.start, last - first))
    return Move(start, end - start, 0, tuple(copies))


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

    def copies(self, staging: int) -> Iterator[tuple[int, int, int]]:
        """Yield copies of the staged moves: where in staging memory, where else, how many bytes."""
        for move, slot in zip(self.moves, self.slots, strict=True):
            for at, address, nbytes in move.copies:
                yield staging + slot + at, address, nbytes

    def has_gaps(self) -> bool:
        """Say whether there are bytes that belong to no extent."""
        return any(move.wanted_nbytes < move.nbytes for move in self.moves)


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
