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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from thaw import (
    Backend,
    Extents,
    Progress,
    ReadPlan,
    Source,
    Support,
    Target,
    Transfer,
    WritePlan,
    cut_read,
    cut_write,
    wait_for_caller,
)

from .lanes import Lane, pump, transfer_errors
from .probing import obstacle
from .steps import PAGE_NBYTES, Reading, Writing, device_of, locked_address

_PIECE_NBYTES = 16 << 20
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
        if piece_nbytes < 1 or piece_nbytes % PAGE_NBYTES:
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
        route = _PINNED if locked_address(source) else _DOUBLE_BUFFER
        if not plan.extents:
            return Transfer(route)
        # The threads end before the lanes that they read into are lent again.
        pool = ThreadPoolExecutor(self._readers, "thaw-cupy")
        with self._lanes(source.path, plan.extents) as lanes, pool:
            reading = Reading(source, plan, pool, self._readers)
            pump(lanes, cut_read(plan, self._piece_nbytes), reading, progress)
        return Transfer(route, chunks_checked=reading.chunks_checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        with self._lanes(target.path, plan.extents) as lanes:
            writing = Writing(target, plan)
            pump(lanes, cut_write(plan, self._piece_nbytes), writing, progress)
        return Transfer(_DOUBLE_BUFFER, digests=tuple(writing.digests))

    @contextmanager
    def _lanes(self, path: Path, extents: Extents) -> Iterator[list[Lane]]:
        """Lend lanes, once it is the transfer's turn; at the end, wait for them."""
        import cupy

        device = device_of(extents)
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
