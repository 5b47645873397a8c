"""Tensor subclasses as the plain tensors that they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import torch
from thaw_format import is_strided
from torch import nn

Attributes: TypeAlias = Mapping[str, str]
"""Plain values that a tensor subclass computes with, as text, by name."""

_ATOMS = (bool, int, float, str, torch.dtype, torch.device, Enum, type(None))
_CLOSED = (type, nn.Module, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
"""Types of what a tensor refers to but does not consist of."""
_MOST_DEEP = 6


@dataclass(frozen=True, slots=True, eq=False)
class Unwrapped:
    """The plain tensors of a tensor, by name, and what else it computes with."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    is_wrapper: bool = False


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return a key that tensors of the same bytes at the same place share."""
    if not is_strided(tensor) or not tensor.numel():
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tensor.nbytes


def unwrap(name: str, tensor: torch.Tensor) -> Unwrapped:
    """Take a tensor apart, by `__tensor_flatten__` where it has that.

    Raises:
        TypeError: it is not initialized, a part of it is no tensor, or it has no bytes of its own.
    """
    if nn.parameter.is_lazy(tensor):
        raise TypeError(f"{name!r} is not initialized yet: run the module once")
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return Unwrapped({name: _as_plain(name, tensor)})
    parts, context = flatten()
    found = Unwrapped(attributes=dict(_context(tensor, context)), is_wrapper=True)
    for part in parts:
        value = getattr(tensor, part)
        if not isinstance(value, torch.Tensor):
            raise TypeError(_is_in_parts(name, tensor, part, value))
        inner = unwrap(f"{name}.{part}", value)
        found.tensors.update(inner.tensors)
        found.attributes.update({f"{part}.{key}": text for key, text in inner.attributes.items()})
    return found


def attached(name: str, tensor: torch.Tensor) -> Unwrapped:
    """Find the tensors among the attributes of a tensor, and plain values beside them."""
    found = Unwrapped()
    seen: set[int] = set()

    def walk(path: str, value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            found.tensors.update(unwrap(f"{name}.{path}", value).tensors)
        elif (text := _text(value)) is not None:
            found.attributes[path] = text
        elif depth < _MOST_DEEP and id(value) not in seen:
            seen.add(id(value))
            for inner, each in _items(value):
                walk(f"{path}.{inner}", each, depth + 1)

    for attribute, value in vars(tensor).items():
        walk(attribute, value, 0)
    return found


def _as_plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach()
    plain = plain if type(plain) is torch.Tensor else plain.as_subclass(torch.Tensor)
    if type(plain) is not torch.Tensor:
        kind = type(tensor).__name__
        raise TypeError(f"{name!r} is a {kind}, which stands for a tensor and has no bytes")
    return plain


def _is_in_parts(name: str, tensor: torch.Tensor, part: str, value: object) -> str:
    kind = type(tensor).__name__
    what = f"{name!r} is a {kind}, whose part {part!r} is no tensor but a {type(value).__name__}"
    if hasattr(tensor, "to_local"):
        placed = ", ".join(map(str, getattr(tensor, "placements", ())))
        return (
            f"{what}: take the local tensors (to_local(), placed {placed}) in a mapping by name, "
            "on each rank, and say which rank it is with shard="
        )
    return f"{what}: take the tensors that it is made of in a mapping by name"


def _context(tensor: torch.Tensor, context: object) -> Iterator[tuple[str, str]]:
    yield "type", f"{type(tensor).__module__}.{type(tensor).__qualname__}"
    if not isinstance(context, Mapping):
        context = {"context": context}
    for key, value in context.items():
        yield str(key), _described(value)


def _described(value: Any) -> str:
    """Say a value as text that is the same in another process."""
    if (text := _text(value)) is not None:
        return text
    kind = type(value).__qualname__
    if not is_dataclass(value):
        return kind
    return f"{kind}({', '.join(_described(getattr(value, each.name)) for each in fields(value))})"


def _text(value: object) -> str | None:
    """Say a plain value as text; None of what is no plain value."""
    if isinstance(value, _ATOMS):
        return str(value) if isinstance(value, Enum) else repr(value)
    if isinstance(value, (list, tuple)):
        texts = [_text(each) for each in value]
        return None if None in texts else f"[{', '.join(text or '' for text in texts)}]"
    return None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), each) for index, each in enumerate(value))
    elif not isinstance(value, _CLOSED):
        yield from getattr(value, "__dict__", {}).items()
