"""CRC32C in the memory of a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import SEGMENT_NBYTES
from .driver import Kernel

if TYPE_CHECKING:
    import numpy.typing as npt

_THREADS = 256
_JOIN_THREADS = 32

Run = Sequence[tuple[int, int]]
"""The parts of one message in order: (device address, nbytes) pairs."""


class DeviceDigests:
    """Computes CRC32C of bytes that lie in the memory of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._remainders = Kernel(device, "thaw_remainders")
        self._join = Kernel(device, "thaw_join")

    def start(self, runs: Sequence[Run], stream: int) -> PendingDigests:
        """Start computing behind what a stream holds; return without waiting.

        Args:
            runs: for each message its parts in order; they must stay as they are until
                `PendingDigests.values` returns.
            stream: the address of a CUDA stream of this device.
        """
        segments, spans = _cut(runs)
        current = torch.cuda.ExternalStream(stream, self._device)
        with torch.cuda.stream(current):
            on_device = [_there(each, self._device) for each in (segments, spans)]
            remainders, crcs = (
                torch.empty(len(each), dtype=torch.int32, device=self._device)
                for each in (segments, spans)
            )
            if len(segments):
                arguments = (on_device[0], remainders)
                self._remainders.launch(len(segments), _THREADS, arguments, current)
            if len(spans):
                blocks = -(-len(spans) // _JOIN_THREADS)
                joined = (on_device[0], remainders, on_device[1], len(spans), crcs)
                self._join.launch(blocks, _JOIN_THREADS, joined, current)
            done = torch.cuda.Event(blocking=True)
            done.record()
        return PendingDigests(crcs, current, done, (*on_device, remainders))


class PendingDigests:
    """Digests that a device is computing."""

    def __init__(
        self,
        crcs: torch.Tensor,
        stream: torch.cuda.Stream,
        done: torch.cuda.Event,
        kept: tuple[torch.Tensor, ...],
    ) -> None:
        self._crcs, self._stream, self._done, self._kept = crcs, stream, done, kept

    def values(self) -> list[int]:
        """Wait, and return the CRC32C of each run."""
        self._done.synchronize()
        self._kept = ()
        # The default stream, which it would be copied on otherwise, may be busy with other things.
        with torch.cuda.stream(self._stream):
            return [value & 0xFFFFFFFF for value in self._crcs.tolist()]


def _there(table: npt.NDArray[np.uint64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(table.view(np.int64)).to(device)


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
