"""Every tensor of a vLLM model, and every float, by name, wherever vLLM keeps it.

`named_parameters` and `named_buffers` are not enough: attention layers keep scales as plain
attributes, quantization methods keep tensors of their own, and processing derives Python floats
from weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from ...tensors.census import take_census
from .scratch import derived_tables, is_scratch

_OWN = frozenset(vars(nn.Module()))
_NOT_STATE = ("vllm.config", "vllm.distributed", "vllm.platforms", "vllm.transformers_utils")
_HANDLE = "CPUDNNLGEMMHandler"
"""vLLM's class for what oneDNN has packed: a tensor with an address of this process in it."""
_CPU_LINEAR = "cpu_linear"
"""What a layer on a CPU computes with; of a handle, which it then holds in a cell."""
_MISSING = "StageMissingLayer"
"""vLLM's class for a layer that is left out; what it stands for has no memory, or is not used."""
_MOST_DEEP = 8
_ATOMS = frozenset({type(None), bool, int, str, torch.dtype, FunctionType, MethodType})
"""Types of most attributes; no tensor is inside of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Float:
    """A Python float and the object that has it as an attribute."""

    owner: Any
    attribute: str

    @property
    def value(self) -> float:
        found = vars(self.owner)[self.attribute]
        assert isinstance(found, float)
        return found

    def set(self, value: float) -> None:
        vars(self.owner)[self.attribute] = value


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """What a model computes with.

    Attributes:
        tensors: parameters, buffers, and tensors that are attributes of modules or of the objects
            and containers that modules hold; tied ones under each of their names.
        floats: attributes of the same modules and objects.
        handles: names of handles of a native library, which has weights in memory of its own, and
            of the weights that were given to one.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    floats: dict[str, Float] = field(default_factory=dict)
    handles: list[str] = field(default_factory=list)

    @property
    def is_readable(self) -> bool:
        """Whether no weights are packed into handles of a library, which leaves theirs empty."""
        tensors = self.tensors.values()
        return not self.handles and all(
            tensor.numel() or tensor.device.type != "cpu" for tensor in tensors
        )


def take_state(model: nn.Module) -> ModelState:
    """List all that a model on this rank computes with.

    Left out are its KV cache, memory for a batch, and tables that building it makes.

    Raises:
        TypeError: a tensor has no memory yet, two would have the same name, or the model has state
            that only its own methods know.
    """
    census = take_census(model)
    if hidden := sorted(census.made.union(census.others)):
        raise TypeError(f"{hidden[0]!r} is state that only the model's own methods can set")
    tables = set(derived_tables(model))
    tensors = {name: each for name, each in census.tensors.items() if name not in tables}
    walk = _Walk(ModelState(tensors))
    # What another attribute refers to as well has a name already.
    walk.seen.update(map(id, model.modules()))
    for name, module in model.named_modules():
        walk.attributes(name, module, 0)
    return walk.state


class _Walk:
    """Goes through attributes, each object once."""

    def __init__(self, state: ModelState) -> None:
        self.state, self.seen = state, set[int]()

    def attributes(self, prefix: str, owner: Any, depth: int) -> None:
        if type(owner).__name__ == _MISSING:
            return
        passed = _OWN if isinstance(owner, nn.Module) else frozenset[str]()
        for attribute, value in sorted(vars(owner).items(), key=itemgetter(0)):
            if attribute == _CPU_LINEAR and getattr(value, "__closure__", None):
                # Some layers keep their weight beside what was packed, which then stays as it was.
                self.state.handles.append(f"{prefix}.weight")
            if type(value) in _ATOMS or attribute in passed or is_scratch(owner, attribute):
                continue
            name = f"{prefix}.{attribute}" if prefix else attribute
            if type(value) is float:
                self.state.floats[name] = Float(owner, attribute)
            else:
                self._value(name, value, depth)
        if isinstance(owner, nn.Module) and depth:
            for name, tensor in take_census(owner).tensors.items():
                self._add(f"{prefix}.{name}", tensor)

    def _value(self, name: str, value: Any, depth: int) -> None:
        if type(value) in _ATOMS:
            return
        if isinstance(value, torch.Tensor):
            self._add(name, value)
        elif type(value).__name__ == _HANDLE:
            self.state.handles.append(name)
        elif depth < _MOST_DEEP and id(value) not in self.seen:
            for inner, each in _items(value):
                self.seen.add(id(value))
                self._value(f"{name}.{inner}", each, depth + 1)
            if _is_stateful(value):
                self.seen.add(id(value))
                self.attributes(name, value, depth + 1)

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        for inner, plain in take_census({name: tensor}).tensors.items():
            if inner in self.state.tensors:
                raise TypeError(f"two tensors of the model would have the name {inner!r}")
            self.state.tensors[inner] = plain


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), each) for index, each in enumerate(value))


def _is_stateful(value: Any) -> bool:
    """Say whether an object may hold tensors of the model: vLLM's own, but no configuration."""
    kind = type(value)
    if isinstance(value, (type, nn.Module)):
        return isinstance(value, nn.Module)
    origin = kind.__module__
    return (
        origin.startswith("vllm.")
        and not origin.startswith(_NOT_STATE)
        and hasattr(value, "__dict__")
    )
