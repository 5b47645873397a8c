"""The bytes of a tensor's values, whatever its strides and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from thaw_format import TensorSpec, as_integers, byte_view
from thaw_format.dtypes import NAMES as TORCH_NAMES

from .dtypes import NAMES, PACKED
from .header import METADATA_MEMBER

PIECE_NBYTES = 16 << 20


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """Describe a tensor whose values are to be stored.

    Raises:
        TypeError: it has no plain memory.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name!r} is {type(tensor).__name__}, not a tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        what = "a meta tensor" if tensor.is_meta else "not a plain strided tensor"
        raise TypeError(f"tensor {name!r} is {what} and has no bytes to store")
    if tensor.numel() and not tensor.data_ptr():
        raise TypeError(f"tensor {name!r} is a {type(tensor).__name__} without memory of its own")
    word = TORCH_NAMES[tensor.dtype]
    return TensorSpec(word, tuple(tensor.shape), tuple(tensor.stride()), 0, 0)


def check_storable(specs: Mapping[str, TensorSpec]) -> None:
    """Make sure that a safetensors file can hold tensors.

    Raises:
        TypeError: an element type is one that the format lacks.
        ValueError: a name is one that the format reserves.
    """
    for name, spec in specs.items():
        if name == METADATA_MEMBER:
            raise ValueError(f"a tensor cannot be named {name!r}: the format reserves it")
        if spec.dtype_name not in NAMES:
            known = ", ".join(NAMES)
            found = spec.dtype_name
            raise TypeError(f"tensor {name!r}: safetensors has no {found}; it knows {known}")
        if spec.dtype_name == PACKED and not spec.shape:
            raise TypeError(f"tensor {name!r}: safetensors holds no packed 4-bit scalars")


def dense_pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor's elements, in index order, as pieces of 1-D uint8 memory on the host.

    Memory is copied, a piece at a time, only where it is not contiguous or not on the host.
    """
    plain = tensor.detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    yield from _pieces(as_integers(plain))


def _pieces(words: torch.Tensor) -> Iterator[torch.Tensor]:
    nbytes = words.numel() * words.dtype.itemsize
    if not nbytes:
        return
    if nbytes <= PIECE_NBYTES:
        yield _bytes(words)
        return
    if words.is_contiguous():
        words = words.reshape(-1)
    rows = PIECE_NBYTES * len(words) // nbytes
    for first in range(0, len(words), max(rows, 1)):
        yield from _pieces(words[first : first + rows] if rows else words[first])


def _bytes(words: torch.Tensor) -> torch.Tensor:
    dense = words.contiguous().cpu()
    width = dense.dtype.itemsize
    return byte_view(dense, int(dense.storage_offset()) * width, dense.numel() * width)
