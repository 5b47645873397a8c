"""Lanes: a pinned buffer and a stream each, and the loop that keeps them busy."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from thaw import Extents, HostBuffer, Piece, Progress, TransferError

_T = TypeVar("_T")


class Lane:
    """A stream of a device, a pinned buffer of the host, and device memory of the same size.

    Attributes:
        stream: what is queued on it runs in order; streams of other lanes run beside it.
        staging: device memory for pieces that belong in several places; held during a transfer.
    """

    def __init__(self, device: torch.device, nbytes: int) -> None:
        import cupy

        self._cuda, self.device, self._nbytes = cupy.cuda, device, nbytes
        # The default stream of torch would otherwise make it wait, and wait for it.
        self.stream: Any = cupy.cuda.Stream(non_blocking=True)
        self.staging: torch.Tensor | None = None

    def prepare(self) -> None:
        """Get device memory from torch, which knows best what it can spare."""
        self.staging = torch.empty(self._nbytes, dtype=torch.uint8, device=self.device)

    def rest(self) -> None:
        """Wait until nothing is under way, and give the device memory back."""
        self.stream.synchronize()
        self.staging = None

    @cached_property
    def _pinned(self) -> Any:
        return self._cuda.PinnedMemory(self._nbytes)

    @property
    def buffer_address(self) -> int:
        """Where the pinned buffer is in the memory of the host."""
        return int(self._pinned.ptr)

    def buffer(self, nbytes: int, *, start: int = 0) -> HostBuffer:
        """View bytes of the pinned buffer."""
        return (ctypes.c_ubyte * nbytes).from_address(self.buffer_address + start)

    @property
    def staging_address(self) -> int:
        assert self.staging is not None
        return self.staging.data_ptr()

    def copy(self, to: int, origin: int, nbytes: int) -> None:
        """Queue a copy between any two places of the host and the device; return at once."""
        runtime = self._cuda.runtime
        runtime.memcpyAsync(to, origin, nbytes, runtime.memcpyDefault, self.stream.ptr)

    def clear(self, address: int, nbytes: int) -> None:
        """Queue zeros for device memory; return at once."""
        self._cuda.runtime.memsetAsync(address, 0, nbytes, self.stream.ptr)


class Steps(Protocol[_T]):
    """What is done with each piece: `start` must not wait for the device, `finish` does."""

    def start(self, lane: Lane, piece: Piece) -> _T: ...

    def finish(self, lane: Lane, piece: Piece, started: _T, /) -> None: ...


def pump(
    lanes: Sequence[Lane], pieces: Iterable[Piece], steps: Steps[_T], progress: Progress | None
) -> None:
    """Start each piece on the next lane, once what that lane was given before is finished."""

    def finish(lane: Lane, piece: Piece, started: _T) -> None:
        steps.finish(lane, piece, started)
        if progress:
            progress(piece.wanted_nbytes)

    under_way: deque[tuple[Lane, Piece, _T]] = deque()
    for piece, lane in zip(pieces, cycle(lanes), strict=False):
        if len(under_way) == len(lanes):
            finish(*under_way.popleft())
        under_way.append((lane, piece, steps.start(lane, piece)))
    for each in under_way:
        finish(*each)


@contextmanager
def transfer_errors(path: Path, extents: Extents) -> Iterator[None]:
    """Turn the errors of CUDA into thaw's."""
    import cupy

    try:
        yield
    except (
        cupy.cuda.driver.CUDADriverError,
        cupy.cuda.memory.OutOfMemoryError,
        cupy.cuda.runtime.CUDARuntimeError,
        torch.AcceleratorError,
        torch.OutOfMemoryError,
    ) as error:
        start, end = extents.span
        raise TransferError(
            f"CUDA failed: {error}", path=path, offset=start, nbytes=end - start
        ) from error
