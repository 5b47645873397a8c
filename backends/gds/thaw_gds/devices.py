"""The device side of a transfer: its stream, staging memory, copies and digests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Protocol

import torch

from thaw import wait_for_caller

from .moves import Copy, Run


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
        self._digests = _digests(index)
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

    def scatter(self, staging: torch.Tensor, slot: int, copies: Sequence[Copy]) -> None:
        """Queue the copies of a staged move to where its bytes belong."""
        if copies:
            with torch.cuda.stream(self._stream):
                torch._foreach_copy_(
                    [copy.memory for copy in copies], _views(staging, slot, copies)
                )

    def gather(self, staging: torch.Tensor, slot: int, nbytes: int, copies: Sequence[Copy]) -> None:
        """Queue the copies that make a staged move from zeros and bytes of extents."""
        with torch.cuda.stream(self._stream):
            if sum(copy.memory.numel() for copy in copies) < nbytes:
                staging[slot : slot + nbytes].zero_()
            if copies:
                torch._foreach_copy_(
                    _views(staging, slot, copies), [copy.memory for copy in copies]
                )

    def digest(self, runs: Sequence[Run]) -> Pending:
        """Start computing the digest of each run, behind the copies queued so far."""
        pending: Pending = self._digests.start(
            [run.parts for run in runs], self._stream.cuda_stream
        )
        return pending

    def synchronize(self) -> None:
        self._stream.synchronize()


def _views(staging: torch.Tensor, slot: int, copies: Sequence[Copy]) -> list[torch.Tensor]:
    return [staging[slot + copy.at : slot + copy.at + copy.memory.numel()] for copy in copies]


@cache
def _digests(index: int) -> Any:
    from thaw.cuda.digests import DeviceDigests

    return DeviceDigests(torch.device("cuda", index))
