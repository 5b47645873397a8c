"""Memory for whole snapshots."""

from __future__ import annotations

import mmap

import torch
from thaw_format import STORAGE_ALIGNMENT, TensorSpec

_HUGE_PAGE_NBYTES = 2 << 20


def allocate_exactly(nbytes: int, device: torch.device) -> torch.Tensor:
    """Allocate as `allocate` does, but so that torch's storage has no byte more.

    Aligned to what torch aligns to, which suits every dtype.
    """
    if device.type == "cpu" and nbytes >= 2 * _HUGE_PAGE_NBYTES:
        return allocate(nbytes, device)
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


def allocate(nbytes: int, device: torch.device) -> torch.Tensor:
    """Allocate a contiguous 1-D uint8 tensor, aligned to at least 512 bytes, contents undefined."""
    if device.type != "cpu" or nbytes < 2 * _HUGE_PAGE_NBYTES:
        padded = torch.empty(nbytes + STORAGE_ALIGNMENT - 1, dtype=torch.uint8, device=device)
        start = -padded.data_ptr() % STORAGE_ALIGNMENT
        return padded[start : start + nbytes]
    # First touch of small pages costs more than reading the file: ask for large ones.
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def allocate_like(spec: TensorSpec, device: torch.device) -> torch.Tensor:
    """Allocate a tensor of the dtype, shape and strides that a spec says, contents undefined."""
    return torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=device)
