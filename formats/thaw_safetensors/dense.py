"""The bytes of a tensor's values, whatever its strides and device."""

from __future__ import annotations

import torch
from thaw_format import as_integers

from .dtypes import DTYPES, STORABLE


def check_storable(name: str, tensor: torch.Tensor) -> None:
    """Make sure that a safetensors file can hold a tensor.

    Raises:
        TypeError: it has no plain memory, or an element type that the format lacks.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name!r} is {type(tensor).__name__}, not a tensor")
    if tensor.dtype not in STORABLE:
        known = ", ".join(str(dtype) for dtype in DTYPES.values())
        raise TypeError(f"tensor {name!r}: safetensors has no {tensor.dtype}; it knows {known}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        what = "a meta tensor" if tensor.is_meta else "not a plain strided tensor"
        raise TypeError(f"tensor {name!r} is {what} and has no bytes to store")
    if tensor.dtype is torch.float4_e2m1fn_x2 and not tensor.ndim:
        raise TypeError(f"tensor {name!r}: safetensors holds no packed 4-bit scalars")
    if tensor.numel() and not tensor.data_ptr():
        raise TypeError(f"tensor {name!r} is a {type(tensor).__name__} without memory of its own")


def dense_nbytes(tensor: torch.Tensor) -> int:
    """Count the bytes of all elements."""
    return tensor.numel() * tensor.dtype.itemsize


def dense_words(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes as contiguous integers on the CPU, copied only if they are not."""
    plain = tensor.detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return as_integers(plain).contiguous().cpu()
