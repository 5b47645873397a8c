"""What a read and a write do with each piece: on the host, and in the queue of a lane's stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import torch

from thaw import (
    ChunkDigests,
    Extents,
    HasLockedPages,
    Piece,
    ReadPlan,
    Source,
    Target,
    TransferError,
    WritePlan,
    check_chunk,
)
from thaw.cuda.copies import DeviceCopies
from thaw.cuda.digests import DeviceDigests, PendingDigests

from .lanes import Lane

PAGE_NBYTES = 4096
_MAX_COPIES = 8
"""More are made by one kernel."""
_Started: TypeAlias = tuple[PendingDigests | None, Any]
"""Digests that are being computed, and what has to live until the device is done."""


class Steps:
    """What reads and writes have in common."""

    def __init__(self, device: torch.device) -> None:
        self._copies, self._digests = DeviceCopies(device), DeviceDigests(device)

    def _scatter(self, lane: Lane, copies: Sequence[tuple[int, int, int]]) -> Any:
        """Queue copies within the device: from where, to where, how many bytes."""
        if len(copies) > _MAX_COPIES:
            return self._copies.start(copies, lane.stream.ptr)
        for origin, to, nbytes in copies:
            lane.copy(to, origin, nbytes)
        return None

    def _digest(self, lane: Lane, piece: Piece, address: int) -> PendingDigests:
        """Queue the digests of the parts of chunks in a piece, given where that is."""
        runs = [[(address + each.start - piece.start, each.nbytes)] for each in piece.chunk_parts]
        return self._digests.start(runs, lane.stream.ptr)


class Reading(Steps):
    """What a read does with each piece."""

    def __init__(
        self, source: Source, plan: ReadPlan, pool: ThreadPoolExecutor, readers: int
    ) -> None:
        super().__init__(device_of(plan.extents))
        self._source, self._expected = source, plan.digests
        self._pool, self._readers = pool, readers
        self._chunks = ChunkDigests(plan.digests.chunks) if plan.digests is not None else None
        self.chunks_checked = 0

    def start(self, lane: Lane, piece: Piece) -> _Started:
        """Read a piece from the file, and queue all that the device does with it."""
        origin, kept = self._load(lane, piece), None
        landing = device_address(piece)
        if landing is not None:
            lane.copy(landing, origin, piece.nbytes)
        else:
            landing = lane.staging_address
            lane.copy(landing, origin, piece.nbytes)
            kept = self._scatter(
                lane,
                [
                    (landing + each.start - piece.start, each.address, each.nbytes)
                    for each in piece.parts
                ],
            )
        return (self._digest(lane, piece, landing) if self._chunks is not None else None), kept

    def finish(self, lane: Lane, piece: Piece, started: _Started) -> None:
        """Wait for the device, and compare the digests of the chunks that end in the piece."""
        lane.stream.synchronize()
        pending, _ = started
        if self._chunks is None or self._expected is None or pending is None:
            return
        for index, crc in self._chunks.add(_digested(piece, pending)):
            check_chunk(index, crc, self._expected, self._source.path)
            self.chunks_checked += 1

    def _load(self, lane: Lane, piece: Piece) -> int:
        """Return where in pinned memory the bytes of a piece are, once they are there."""
        address = locked_address(self._source)
        if address and piece.end <= self._source.nbytes:
            return address + piece.start
        # Made now, once, by the thread whose device is the right one.
        buffer_address = lane.buffer_address
        share = -(-piece.nbytes // (self._readers * PAGE_NBYTES)) * PAGE_NBYTES

        def read(start: int) -> None:
            nbytes, offset = min(share, piece.nbytes - start), piece.start + start
            try:
                self._source.read_into(offset, [lane.buffer(nbytes, start=start)])
            except OSError as error:
                raise TransferError(
                    f"reading failed: {error}",
                    path=self._source.path,
                    offset=offset,
                    nbytes=nbytes,
                ) from error

        for _ in self._pool.map(read, range(0, piece.nbytes, share)):
            pass
        return buffer_address


class Writing(Steps):
    """What a write does with each piece."""

    def __init__(self, target: Target, plan: WritePlan) -> None:
        super().__init__(device_of(plan.extents))
        self._target, self._chunks = target, ChunkDigests(plan.chunks)
        self.digests: list[int] = []

    def start(self, lane: Lane, piece: Piece) -> _Started:
        """Queue all that the device does with a piece: gather it, digest it, copy it.

        It is gathered even where it lies together: the program may change its memory meanwhile,
        and digest and file have to be of one copy.
        """
        origin = lane.staging_address
        if piece.wanted_nbytes < piece.nbytes:
            lane.clear(origin, piece.nbytes)
        for part in piece.parts:
            if part.on_host:
                lane.copy(origin + part.start - piece.start, part.address, part.nbytes)
        there = [part for part in piece.parts if not part.on_host]
        kept = self._scatter(
            lane, [(each.address, origin + each.start - piece.start, each.nbytes) for each in there]
        )
        pending = self._digest(lane, piece, origin)
        lane.copy(lane.buffer_address, origin, piece.nbytes)
        return pending, kept

    def finish(self, lane: Lane, piece: Piece, started: _Started) -> None:
        """Wait for the device, and write the piece to the file."""
        lane.stream.synchronize()
        pending, _ = started
        assert pending is not None
        self.digests += [crc for _, crc in self._chunks.add(_digested(piece, pending))]
        self._target.write_from(piece.start, [lane.buffer(piece.nbytes)])


def device_address(piece: Piece) -> int | None:
    """Return where all of a piece lies in device memory, one byte behind the other, if it does."""
    if len(piece.parts) != 1:
        return None
    (part,) = piece.parts
    return part.address if part.nbytes == piece.nbytes and not part.on_host else None


def _digested(piece: Piece, pending: PendingDigests) -> Iterator[tuple[int, int, int]]:
    for part, crc in zip(piece.chunk_parts, pending.values(), strict=True):
        yield part.chunk, part.nbytes, crc


def locked_address(source: Source) -> int:
    """Return where the source is in pinned memory as a whole, 0 where it is not."""
    return source.locked_address() if isinstance(source, HasLockedPages) else 0


def device_of(extents: Extents) -> torch.device:
    """Return the CUDA device of a plan, which may have none but the host's memory, or nothing."""
    if extents.device.type == "cuda":
        return extents.device
    return torch.device("cuda", torch.cuda.current_device())
