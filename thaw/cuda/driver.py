"""The kernels, launched by the CUDA driver itself: nothing but torch has to be installed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch

from ..errors import BackendError
from . import PTX


class Kernel:
    """One of the kernels, loaded for a device."""

    def __init__(self, device: torch.device, name: str) -> None:
        self._device = device
        self._function = ctypes.c_void_p()
        with torch.cuda.device(device):
            _call(
                "cuModuleGetFunction",
                ctypes.byref(self._function),
                _module(torch.cuda.current_device()),
                name.encode(),
            )

    def launch(
        self,
        blocks: int,
        threads: int,
        arguments: Sequence[torch.Tensor | int],
        stream: torch.cuda.Stream,
    ) -> None:
        """Queue it behind what a stream holds.

        Args:
            arguments: tensors, of which it gets the addresses, and unsigned integers of 32 bits.

        Raises:
            BackendError: the driver refuses.
        """
        values = [
            ctypes.c_uint64(each.data_ptr())
            if isinstance(each, torch.Tensor)
            else ctypes.c_uint32(each)
            for each in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        with torch.cuda.device(self._device):
            _call(
                "cuLaunchKernel",
                self._function,
                *(blocks, 1, 1, threads, 1, 1, 0),
                ctypes.c_void_p(stream.cuda_stream),
                pointers,
                None,
            )


@cache
def _module(device_id: int) -> ctypes.c_void_p:
    """Load the kernels for the device that is current."""
    module = ctypes.c_void_p()
    _call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX.read_bytes() + b"\0"))
    return module


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: object) -> None:
    status = int(getattr(_driver(), name)(*arguments))
    if status:
        said = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(said))
        reason = said.value.decode() if said.value else f"error {status}"
        raise BackendError(f"the CUDA driver refuses {name}: {reason}")
