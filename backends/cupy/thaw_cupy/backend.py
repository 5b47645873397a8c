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
Writing is the same the other way round. `pieces.py` says how a plan is cut, `lanes.py` has the loop
(`pump`) and `joining.py` the digests of chunks that several pieces share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from thaw import (
    Backend,
    Extent,
    HasLockedPages,
    Progress,
    ReadPlan,
    Source,
    Support,
    Target,
    Transfer,
    TransferError,
    WritePlan,
    format_error,
    wait_for_caller,
)
from thaw.cuda.digests import DeviceDigests, PendingDigests

from .joining import Joiner
from .lanes import Lane, pump, transfer_errors
from .pieces import Piece, cut_read, cut_write
from .probing import obstacle

_PIECE_NBYTES = 16 << 20
_PAGE_NBYTES = 4096
_READERS = 8
_DOUBLE_BUFFER, _PINNED = "pinned-double-buffer", "pinned"


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
        path = _PINNED if _address(source) else _DOUBLE_BUFFER
        if not plan.extents:
            return Transfer(path)
        # The threads end before the lanes that they read into are lent again.
        pool = ThreadPoolExecutor(self._readers, "thaw-cupy")
        with self._lanes(source.path, plan.extents) as lanes, pool:
            reading = _Reading(source, plan, pool, self._readers)
            pump(lanes, cut_read(plan, self._piece_nbytes), reading, progress)
        return Transfer(path, chunks_checked=reading.chunks_checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        with self._lanes(target.path, plan.extents) as lanes:
            writing = _Writing(target, plan)
            pump(lanes, cut_write(plan, self._piece_nbytes), writing, progress)
        return Transfer(_DOUBLE_BUFFER, digests=tuple(writing.digests))

    @contextmanager
    def _lanes(self, path: Path, extents: Sequence[Extent]) -> Iterator[list[Lane]]:
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


class _Reading:
    """What a read does with each piece."""

    def __init__(
        self, source: Source, plan: ReadPlan, pool: ThreadPoolExecutor, readers: int
    ) -> None:
        self._source, self._expected = source, plan.digests
        self._pool, self._readers = pool, readers
        self._digests = DeviceDigests(_device(plan.extents)) if plan.digests is not None else None
        self._joiner = Joiner()
        self.chunks_checked = 0

    def start(self, lane: Lane, piece: Piece) -> PendingDigests | None:
        """Read a piece from the file, and queue all that the device does with it."""
        origin = self._load(lane, piece)
        landing = piece.device_address
        if landing is not None:
            lane.copy(landing, origin, piece.nbytes)
        else:
            landing = lane.staging_address
            lane.copy(landing, origin, piece.nbytes)
            for part in piece.parts:
                lane.copy(part.address, landing + part.start - piece.start, part.nbytes)
        if self._digests is None:
            return None
        return self._digests.start(_runs(piece, landing), lane.stream.ptr)

    def finish(self, lane: Lane, piece: Piece, pending: PendingDigests | None) -> None:
        """Wait for the device, and compare the digests of the chunks that end in the piece."""
        lane.stream.synchronize()
        if pending is not None:
            for index, crc in self._joiner.add(piece.chunk_parts, pending.values()):
                self._check(index, crc)

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

    def _check(self, index: int, crc: int) -> None:
        assert self._expected is not None
        expected = self._expected.values[index]
        if crc != expected:
            raise format_error(
                "chunk-checksum",
                f"a chunk's CRC32C is {crc:08x}, expected {expected:08x}",
                path=self._source.path,
                offset=self._expected.chunks.span(index)[0],
            )
        self.chunks_checked += 1


class _Writing:
    """What a write does with each piece."""

    def __init__(self, target: Target, plan: WritePlan) -> None:
        self._target, self._digests = target, DeviceDigests(_device(plan.extents))
        self._joiner = Joiner()
        self.digests: list[int] = []

    def start(self, lane: Lane, piece: Piece) -> PendingDigests:
        """Queue all that the device does with a piece: gather it, digest it, copy it.

        It is gathered even where it lies together: the program may change its memory meanwhile,
        and digest and file have to be of one copy.
        """
        origin = lane.staging_address
        if piece.wanted_nbytes < piece.nbytes:
            lane.clear(origin, piece.nbytes)
        for part in piece.parts:
            lane.copy(origin + part.start - piece.start, part.address, part.nbytes)
        pending = self._digests.start(_runs(piece, origin), lane.stream.ptr)
        lane.copy(lane.buffer_address, origin, piece.nbytes)
        return pending

    def finish(self, lane: Lane, piece: Piece, pending: PendingDigests) -> None:
        """Wait for the device, and write the piece to the file."""
        lane.stream.synchronize()
        self.digests += [crc for _, crc in self._joiner.add(piece.chunk_parts, pending.values())]
        self._target.write_from(piece.start, [lane.buffer(piece.nbytes)])


def _runs(piece: Piece, address: int) -> list[list[tuple[int, int]]]:
    """Say for `DeviceDigests` where the parts of chunks are, given where the piece is."""
    return [[(address + part.start - piece.start, part.nbytes)] for part in piece.chunk_parts]


def _address(source: Source) -> int:
    """Return where the source is in pinned memory as a whole, 0 where it is not."""
    return source.locked_address() if isinstance(source, HasLockedPages) else 0


def _device(extents: Sequence[Extent]) -> torch.device:
    """Return the CUDA device of a plan; those of a write may lie on the host besides."""
    for extent in extents:
        if extent.device.type == "cuda":
            return extent.device
    return torch.device("cuda", torch.cuda.current_device())
