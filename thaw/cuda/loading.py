"""The kernels, loaded through CuPy, and streams as CuPy takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from . import PTX


@cache
def kernel(device_id: int, name: str) -> Any:
    """Return one of the kernels, to be launched on a device."""
    import cupy

    with cupy.cuda.Device(device_id):
        return _module(device_id).get_function(name)


@cache
def _module(device_id: int) -> Any:
    import cupy

    return cupy.RawModule(path=str(PTX))


def id_of(device: torch.device) -> int:
    """Return the number of a CUDA device."""
    return 0 if device.index is None else device.index


def entered(device_id: int, stream: int) -> Any:
    """Return a stream, known by its address, as what makes it CuPy's current one."""
    from cupy import cuda

    if hasattr(cuda.Stream, "from_external"):
        return cuda.Stream.from_external(_Stream(stream))
    return cuda.ExternalStream(stream, device_id)


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that is known by its address alone."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address
