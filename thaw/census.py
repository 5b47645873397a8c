"""Which tensors a module or mapping has, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

# Types that there is nothing to unwrap of.
_PLAIN = (torch.Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """The tensors of a subject, tied ones under each of their names.

    Attributes:
        tensors: plain tensors, by name.
        optional: names of non-persistent buffers. A checkpoint usually lacks them, and a module
            builds them itself.
    """

    tensors: Mapping[str, torch.Tensor]
    optional: frozenset[str] = frozenset()


def take_census(subject: nn.Module | Mapping[str, torch.Tensor]) -> Census:
    """List parameters, persistent and non-persistent buffers, or the items of a mapping.

    Tensor subclasses are unwrapped: a wrapper becomes its parts, as `name.part`, by the protocol
    `__tensor_flatten__`; others become the plain tensor that they are.

    Raises:
        TypeError: the subject has something else than tensors, or uninitialized parameters.
    """
    if isinstance(subject, nn.Module):
        return _of_module(subject)
    if isinstance(subject, Mapping):
        return Census(_unwrap_all(subject.items()))
    raise TypeError(f"expected a module or a mapping of tensors, found {type(subject).__name__}")


def _of_module(module: nn.Module) -> Census:
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    non_persistent = set(_non_persistent(module))
    optional = {
        inner
        for name, tensor in named
        if name in non_persistent
        for inner, _ in _unwrap(name, tensor)
    }
    return Census(_unwrap_all(named), frozenset(optional))


def _non_persistent(module: nn.Module) -> Iterator[str]:
    for prefix, each in module.named_modules(remove_duplicate=False):
        for name in each._non_persistent_buffers_set:
            yield f"{prefix}.{name}" if prefix else name


def _unwrap_all(named: Iterable[tuple[str, object]]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, value in named:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of a tensor: names are strings")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name!r} is of type {type(value).__name__}, not a tensor")
        plain = type(value) in _PLAIN
        for inner, tensor in ((name, value.detach()),) if plain else _unwrap(name, value):
            if inner in tensors:
                raise TypeError(f"two tensors would have the name {inner!r}")
            tensors[inner] = tensor
    return tensors


def _unwrap(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if nn.parameter.is_lazy(tensor):
        raise TypeError(f"{name!r} is not initialized yet: run the module once")
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        parts, _ = flatten()
        for part in parts:
            yield from _unwrap(f"{name}.{part}", getattr(tensor, part))
    else:
        plain = tensor.detach()
        yield name, plain if type(plain) is torch.Tensor else plain.as_subclass(torch.Tensor)
