"""Copying and comparing elements, every bit as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from thaw_format import as_integers, byte_view


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A tensor that is read beside its target, where the bytes do not lie as in the file."""

    name: str
    source: torch.Tensor
    target: torch.Tensor


def copy_exactly(copy: Copy) -> None:
    """Copy the elements of a tensor to one of other strides, every bit as it is."""
    source, target = _collapse(copy.source), _collapse(copy.target)
    with torch.no_grad():
        as_integers(target).copy_(as_integers(source))


def _collapse(tensor: torch.Tensor) -> torch.Tensor:
    for dimension, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[dimension] > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """View or copy a tensor's elements, in index order, as 1-D uint8."""
    plain = as_integers(tensor.detach()).contiguous()
    start = int(plain.storage_offset()) * plain.dtype.itemsize
    return byte_view(plain, start, plain.numel() * plain.dtype.itemsize)
