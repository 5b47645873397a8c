"""Whether tensors are, byte for byte, those of others; and taking their bytes away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from thaw.tensors.elements import bytes_of

from .memory import split

_PIECE_NBYTES = 256 << 20


def identical(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Compare names, dtypes, shapes, strides and every byte, on the device of `found`."""
    return found.keys() == expected.keys() and all(
        _same(tensor, expected[name]) for name, tensor in found.items()
    )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape, one.stride()) != (other.dtype, other.shape, other.stride()):
        return False
    pieces = (split(bytes_of(each), _PIECE_NBYTES) for each in (one, other))
    return all(torch.equal(a, b.to(a.device)) for a, b in zip(*pieces, strict=True))


def scramble(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the memory of tensors: bytes left over from a restore must not pass for another."""
    storages = {each.untyped_storage().data_ptr(): each for each in tensors}
    for each in storages.values():
        memory = torch.empty(0, dtype=torch.uint8, device=each.device)
        memory.set_(each.untyped_storage()).fill_(0x55)
