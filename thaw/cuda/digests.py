"""CRC32C in the memory of a CUDA device, launched through CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import SEGMENT_NBYTES
from .loading import entered, id_of, kernel

if TYPE_CHECKING:
    import numpy.typing as npt

_THREADS = 256
_JOIN_THREADS = 32

Run = Sequence[tuple[int, int]]
"""The parts of one message in order: (device address, nbytes) pairs."""


class DeviceDigests:
    """Computes CRC32C of bytes that lie in the memory of one CUDA device; needs CuPy."""

    def __init__(self, device: torch.device) -> None:
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(id_of(device))
        self._remainders = kernel(self._device.id, "thaw_remainders")
        self._join = kernel(self._device.id, "thaw_join")

    def start(self, runs: Sequence[Run], stream: int) -> PendingDigests:
        """Start computing behind what a stream holds; return without waiting.

        Args:
            runs: for each message its parts in order; they must stay as they are until
                `PendingDigests.values` returns.
            stream: the address of a CUDA stream of this device.
        """
        segments, spans = _cut(runs)
        cupy = self._cupy
        current = entered(self._device.id, stream)
        with self._device, current:
            on_device = cupy.asarray(segments), cupy.asarray(spans)
            remainders = cupy.empty(len(segments), dtype=cupy.uint32)
            crcs = cupy.empty(len(spans), dtype=cupy.uint32)
            if len(segments):
                self._remainders((len(segments),), (_THREADS,), (on_device[0], remainders))
            if len(spans):
                blocks = -(-len(spans) // _JOIN_THREADS)
                arguments = (on_device[0], remainders, on_device[1], np.uint32(len(spans)), crcs)
                self._join((blocks,), (_JOIN_THREADS,), arguments)
            done = cupy.cuda.Event(block=True, disable_timing=True)
            done.record()
        return PendingDigests(crcs, current, done, (*on_device, remainders))


class PendingDigests:
    """Digests that a device is computing."""

    def __init__(self, crcs: Any, stream: Any, done: Any, kept: tuple[Any, ...]) -> None:
        self._crcs, self._stream, self._done, self._kept = crcs, stream, done, kept

    def values(self) -> list[int]:
        """Wait, and return the CRC32C of each run."""
        self._done.synchronize()
        self._kept = ()
        # The default stream, which it would be copied on otherwise, may be busy with other things.
        with self._crcs.device, self._stream:
            values: list[int] = self._crcs.get().tolist()
        return values


def _cut(runs: Sequence[Run]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Cut every part into segments; return them, and the first segment and count of each run."""
    parts = np.array([part for run in runs for part in run], dtype=np.uint64).reshape(-1, 2)
    which, starts, sizes = cut_into_segments(parts[:, 1])
    segments = np.stack([parts[which, 0] + starts, sizes], axis=1)
    ends = np.searchsorted(which, np.arange(len(parts)), side="right")
    part_ends = np.cumsum([len(run) for run in runs], dtype=np.int64)
    last = np.concatenate([[0], ends])[part_ends] if len(runs) else np.zeros(0, dtype=np.int64)
    first = np.concatenate([[0], last[:-1]]) if len(runs) else last
    return segments, np.stack([first, last - first], axis=1).astype(np.uint64).reshape(-1, 2)


def cut_into_segments(
    sizes: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Cut ranges of so many bytes; return of each segment its range, where it begins, its size."""
    counts = -(-sizes.astype(np.int64) // SEGMENT_NBYTES)
    which = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
    starts = within.astype(np.uint64) * np.uint64(SEGMENT_NBYTES)
    return which, starts, np.minimum(sizes[which] - starts, SEGMENT_NBYTES)
