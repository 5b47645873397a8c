"""Which tensors a module or mapping has, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .compiled import PlainNames
from .stated import Stated, stated
from .structured import State
from .unwrapping import Attributes, attached, identity, unwrap

# Types that there is nothing to unwrap of.
_PLAIN = (torch.Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """The tensors of a subject, tied ones under each of their names.

    Attributes:
        tensors: plain tensors, by name.
        optional: names of non-persistent buffers. A checkpoint usually lacks them, and a module
            builds them itself.
        unsaved: names that `state_dict()` does not have: the optional ones, and tensors that are
            attributes of parameters.
        made: names of tensors that `state_dict()` makes anew, or that `get_extra_state` returns:
            the module has to be given these, memory that is filled would not reach it.
        states: what `state_dict()` has that is no tensor, by name.
        others: what it has that cannot be stored: its type, by name.
        attributes: of each tensor of a subclass, what else it computes with: plain values, as text.
    """

    tensors: Mapping[str, torch.Tensor]
    optional: frozenset[str] = frozenset()
    unsaved: frozenset[str] = frozenset()
    made: frozenset[str] = frozenset()
    states: Mapping[str, State] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Attributes] = field(default_factory=dict)


def take_census(subject: nn.Module | Mapping[str, torch.Tensor]) -> Census:
    """List parameters, buffers and what else `state_dict()` has, or the items of a mapping.

    Tensor subclasses are unwrapped: a wrapper becomes its parts, as `name.part`, by the protocol
    `__tensor_flatten__`; others become the plain tensor that they are, and the tensors among their
    attributes, as `name.attribute`. Modules that `torch.compile` returned are seen through: names
    are those of the module that was compiled.

    Raises:
        TypeError: the subject has something else than tensors, uninitialized parameters, tensors
            without bytes of their own, or a `state_dict()` that fails.
    """
    if isinstance(subject, nn.Module):
        return _of_module(subject)
    if isinstance(subject, Mapping):
        taken = _Taken()
        taken.add_all(subject.items())
        return taken.census(frozenset(), Stated())
    raise TypeError(f"expected a module or a mapping of tensors, found {type(subject).__name__}")


def left_out(module: nn.Module, census: Census) -> tuple[str, ...]:
    """Name the tensors that are plain attributes of modules: by torch's rule, they are no state."""
    found = {
        f"{prefix}.{attribute}" if prefix else attribute: value
        for prefix, each in module.named_modules()
        for attribute, value in vars(each).items()
        if isinstance(value, torch.Tensor)
    }
    if not found:
        return ()
    taken, names = set(map(identity, census.tensors.values())), PlainNames(module)
    return tuple(names.plain(name) for name, t in found.items() if identity(t) not in taken)


def _of_module(module: nn.Module) -> Census:
    names = PlainNames(module)
    taken = _Taken()
    taken.add_all(names.renamed(module.named_parameters(remove_duplicate=False)))
    non_persistent = {names.plain(name) for name in _non_persistent(module)}
    optional: set[str] = set()
    for name, buffer in names.renamed(module.named_buffers(remove_duplicate=False)):
        inner = taken.add(name, buffer)
        if name in non_persistent:
            optional.update(inner)
    return taken.census(frozenset(optional), stated(module, names, taken.tensors))


def _non_persistent(module: nn.Module) -> Iterable[str]:
    for prefix, each in module.named_modules(remove_duplicate=False):
        for name in each._non_persistent_buffers_set:
            yield f"{prefix}.{name}" if prefix else name


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return *identity(tensor), tensor.dtype, tensor.shape, tensor.stride()


class _Taken:
    """What was found so far."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._attributes: dict[str, Attributes] = {}
        self._attached: dict[str, torch.Tensor] = {}

    def add_all(self, named: Iterable[tuple[str, object]]) -> None:
        for name, value in named:
            self.add(name, value)

    def add(self, name: str, value: object) -> Collection[str]:
        """Add a value's tensors; return their names."""
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of a tensor: names are strings")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name!r} is of type {type(value).__name__}, not a tensor")
        if type(value) in _PLAIN:
            self._put(name, value.detach())
            return (name,)
        unwrapped = unwrap(name, value)
        for inner, tensor in unwrapped.tensors.items():
            self._put(inner, tensor)
        if unwrapped.attributes:
            self._attributes[name] = unwrapped.attributes
        if not unwrapped.is_wrapper:
            beside = attached(name, value)
            self._attached.update(beside.tensors)
            if beside.tensors:
                self._attributes[name] = beside.attributes
        return unwrapped.tensors

    def census(self, optional: frozenset[str], said: Stated) -> Census:
        """Add what `state_dict()` has, and attributes of tensors that have no name so far.

        What `state_dict()` has under another name has that one alone, as in a checkpoint.
        """
        renamed = set(map(_place, said.added.values()))
        for name in said.dropped - optional:
            if _place(self.tensors[name]) in renamed:
                del self.tensors[name]
        for name, tensor in said.added.items():
            self._put(name, tensor)
        known = set(map(identity, self.tensors.values())) if self._attached else set()
        beside = {n: t for n, t in self._attached.items() if identity(t) not in known}
        for name, tensor in beside.items():
            self._put(name, tensor)
        unsaved = (optional | beside.keys() | said.dropped) & self.tensors.keys()
        return Census(
            self.tensors,
            optional,
            unsaved,
            said.made,
            said.states,
            said.others,
            self._attributes,
        )

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        if name in self.tensors:
            raise TypeError(f"two tensors would have the name {name!r}")
        self.tensors[name] = tensor
