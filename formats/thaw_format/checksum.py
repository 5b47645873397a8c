"""CRC32C over host memory that is not copied."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, TypeAlias

import google_crc32c

if TYPE_CHECKING:
    import torch

HostBuffer: TypeAlias = "ctypes.Array[ctypes.c_ubyte]"


def host_buffer(memory: torch.Tensor) -> HostBuffer:
    """View a contiguous 1-D uint8 CPU tensor as a buffer; the caller keeps the tensor alive."""
    return (ctypes.c_ubyte * memory.numel()).from_address(memory.data_ptr())


def extend(crc: int, data: bytes | HostBuffer) -> int:
    """Continue a CRC32C over more bytes; that of no bytes is 0 (specification, section 1)."""
    return int(google_crc32c.extend(crc, data))


def crc32c(data: bytes | HostBuffer) -> int:
    """Compute the CRC32C of a buffer."""
    return int(google_crc32c.value(data))
