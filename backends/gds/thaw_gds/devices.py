"""The device side of a transfer: its stream, staging memory, copies and digests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from thaw import wait_for_caller

from .moves import Run


class Pending(Protocol):
    """Digests that are being computed."""

    def values(self) -> list[int]: ...


class CudaDevice:
    """One CUDA device during one transfer, with a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        import cupy

        index = torch.cuda.current_device() if device.index is None else device.index
        self.torch_device = torch.device("cuda", index)
        wait_for_caller([self.torch_device])
        self._runtime = cupy.cuda.runtime
        self._digests, self._copies = _kernels(self.torch_device)
        # Tables of copies, until they are made.
        self._kept: list[Any] = []
        self._stream = torch.cuda.Stream(self.torch_device)

    def current(self) -> AbstractContextManager[object]:
        """Make the device torch's current one for a while."""
        return torch.cuda.device(self.torch_device)

    def bind(self) -> None:
        """Make the device's context that of the calling thread, which KvikIO relies on."""
        self._runtime.setDevice(self.torch_device.index)
        self._runtime.free(0)

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Take memory from the caller's stream, whose cache serves the next transfer too."""
        memory = torch.empty(nbytes, dtype=torch.uint8, device=self.torch_device)
        torch.cuda.current_stream(self.torch_device).synchronize()
        return memory

    def copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """Queue copies within the device: from which address, to which, how many bytes."""
        self._kept.append(self._copies.start(copies, self._stream.cuda_stream))

    def clear(self, memory: torch.Tensor) -> None:
        """Queue zeros."""
        with torch.cuda.stream(self._stream):
            memory.zero_()

    def digest(self, runs: Sequence[Run]) -> Pending:
        """Start computing the digest of each run, behind the copies queued so far."""
        pending: Pending = self._digests.start(
            [run.parts for run in runs], self._stream.cuda_stream
        )
        return pending

    def synchronize(self) -> None:
        """Wait for what was queued."""
        self._stream.synchronize()
        self._kept.clear()


def _kernels(device: torch.device) -> tuple[Any, Any]:
    from thaw.cuda.copies import DeviceCopies
    from thaw.cuda.digests import DeviceDigests

    return DeviceDigests(device), DeviceCopies(device)
