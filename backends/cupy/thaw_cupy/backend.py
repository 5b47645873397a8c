"""Double buffering: while the host reads one piece of the file, the device takes in the one before.

A copy between host and device runs by itself, beside the program, only if the host's memory is
pinned, that is, locked at its place. So there are two pinned buffers, and for each a CUDA stream,
a queue of work that the device does in order. Buffer and stream together are a lane:

    host     read 0 | read 1   | read 2   | read 3   |
    lane 0          | copy 0, check 0     | copy 2, check 2
    lane 1                     | copy 1, check 1     | copy 3, check 3

Before piece 2 may overwrite the buffer of lane 0, the host waits for what that lane was given. A
piece is read by several threads, a share each, for one alone is slower than the bus. Each piece is
checked where it landed: a kernel that is queued behind the copy computes CRC32C in device memory.
Writing is the same the other way round. `lanes.py` has the loop (`pump`). How a plan is cut, and
how the digests of a chunk that several pieces share are joined, is the same in all of thaw.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from thaw import (
    Backend,
    ChunkDigests,
    Extents,
    HasLockedPages,
    Piece,
    Progress,
    ReadPlan,
    Source,
    Support,
    Target,
    Transfer,
    TransferError,
    WritePlan,
    check_chunk,
    cut_read,
    cut_write,
    wait_for_caller,
)
from thaw.cuda.copies import DeviceCopies
from thaw.cuda.digests import DeviceDigests, PendingDigests

from .lanes import Lane, pump, transfer_errors
from .probing import obstacle

_PIECE_NBYTES = 16 << 20
_PAGE_NBYTES = 4096
_READERS = 8
_MAX_COPIES = 8
"""More are made by one kernel."""
_DOUBLE_BUFFER, _PINNED = "pinned-double-buffer", "pinned"
_Started: TypeAlias = tuple[PendingDigests | None, Any]
"""Digests that are being computed, and what has to live until the device is done."""


class CupyBackend(Backend):
    """Moves the memory of CUDA devices through pinned buffers and streams.

    Args:
        buffers: how many pinned buffers a transfer uses; with one, nothing overlaps.
        piece_nbytes: how large each of them is, a multiple of 4096.
        readers: how many threads read a piece together.
    """

    name = "cupy"

    def __init__(
        self, *, buffers: int = 2, piece_nbytes: int = _PIECE_NBYTES, readers: int = _READERS
    ) -> None:
        if buffers < 1:
            raise ValueError(f"buffers is {buffers}, expected at least 1")
        if piece_nbytes < 1 or piece_nbytes % _PAGE_NBYTES:
            raise ValueError(f"piece_nbytes is {piece_nbytes}, expected a multiple of 4096")
        if readers < 1:
            raise ValueError(f"readers is {readers}, expected at least 1")
        self._buffers, self._piece_nbytes, self._readers = buffers, piece_nbytes, readers
        self._idle: list[Lane] = []
        self._lock = threading.Lock()

    def probe(self, device: torch.device) -> Support:
        reason = obstacle(device)
        if reason:
            return Support(False, reason)
        return Support(True, "copies from pinned buffers, a stream for each", _DOUBLE_BUFFER)

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        route = _PINNED if _address(source) else _DOUBLE_BUFFER
        if not plan.extents:
            return Transfer(route)
        # The threads end before the lanes that they read into are lent again.
        pool = ThreadPoolExecutor(self._readers, "thaw-cupy")
        with self._lanes(source.path, plan.extents) as lanes, pool:
            reading = _Reading(source, plan, pool, self._readers)
            pump(lanes, cut_read(plan, self._piece_nbytes), reading, progress)
        return Transfer(route, chunks_checked=reading.chunks_checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        with self._lanes(target.path, plan.extents) as lanes:
            writing = _Writing(target, plan)
            pump(lanes, cut_write(plan, self._piece_nbytes), writing, progress)
        return Transfer(_DOUBLE_BUFFER, digests=tuple(writing.digests))

    @contextmanager
    def _lanes(self, path: Path, extents: Extents) -> Iterator[list[Lane]]:
        """Lend lanes, once it is the transfer's turn; at the end, wait for them."""
        import cupy

        device = _device(extents)
        with transfer_errors(path, extents), cupy.cuda.Device(device.index):
            lanes = self._take(device)
            try:
                for lane in lanes:
                    lane.prepare()
                wait_for_caller([device])
                yield lanes
            finally:
                # After an error, too: no copy may run on into memory that the caller then frees.
                for lane in lanes:
                    lane.rest()
            with self._lock:
                self._idle = lanes

    def _take(self, device: torch.device) -> list[Lane]:
        """Take the lanes that the last transfer left, for pinning is dear, or make some."""
        with self._lock:
            lanes, self._idle = self._idle, []
        if lanes and lanes[0].device == device:
            return lanes
        return [Lane(device, self._piece_nbytes) for _ in range(self._buffers)]


class _Steps:
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


class _Reading(_Steps):
    """What a read does with each piece."""

    def __init__(
        self, source: Source, plan: ReadPlan, pool: ThreadPoolExecutor, readers: int
    ) -> None:
        super().__init__(plan.extents.device)
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
        address = _address(self._source)
        if address and piece.end <= self._source.nbytes:
            return address + piece.start
        # Made now, once, by the thread whose device is the right one.
        buffer_address = lane.buffer_address
        share = -(-piece.nbytes // (self._readers * _PAGE_NBYTES)) * _PAGE_NBYTES

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


class _Writing(_Steps):
    """What a write does with each piece."""

    def __init__(self, target: Target, plan: WritePlan) -> None:
        super().__init__(_device(plan.extents))
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


def _address(source: Source) -> int:
    """Return where the source is in pinned memory as a whole, 0 where it is not."""
    return source.locked_address() if isinstance(source, HasLockedPages) else 0


def _device(extents: Extents) -> torch.device:
    """Return the CUDA device of a plan, which may have none but the host's memory, or nothing."""
    if extents.device.type == "cuda":
        return extents.device
    return torch.device("cuda", torch.cuda.current_device())
