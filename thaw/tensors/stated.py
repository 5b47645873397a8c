"""What `state_dict()` knows of a module beside its parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from thaw_format import is_strided
from torch import nn

from ..errors import MismatchError
from .compiled import PlainNames
from .structured import State, encode, is_equal
from .unwrapping import unwrap

_RULES = frozenset({"state_dict", "_save_to_state_dict", "get_extra_state"})
"""Methods by which a module says its state."""
_EXTRA = "_extra_state"
_REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)
"""What modules raise that cannot say or take their state."""


@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """What a module's `state_dict()` adds to its parameters and buffers, and takes away.

    Attributes:
        added: tensors, by name.
        made: names of those among `added` that are made anew each time.
        states: what is no tensor, by name.
        others: what cannot be said as JSON and tensors: its type, by name.
        dropped: names of parameters and persistent buffers that it does not have.
    """

    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    made: frozenset[str] = frozenset()
    states: Mapping[str, State] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()


def stated(module: nn.Module, names: PlainNames, known: Mapping[str, torch.Tensor]) -> Stated:
    """Compare the known tensors of a module with what its `state_dict()` has.

    A module that says its state by torch's own rule is not asked.

    Raises:
        TypeError: it fails.
    """
    if _is_ordinary(module):
        return Stated()
    said = _ask(module, names)
    dropped = known.keys() - said.keys()
    states: dict[str, State] = {}
    others: dict[str, str] = {}
    added: dict[str, torch.Tensor] = {}
    for name, value in said.items():
        if name in known or value is None:
            continue
        parts = unwrap(name, value) if isinstance(value, torch.Tensor) else None
        if parts is not None and not parts.is_wrapper:
            added.update(parts.tensors)
        elif parts is not None and parts.tensors.keys() <= known.keys():
            dropped -= parts.tensors.keys()
        else:
            _sort_in(name, value, states, others)
    del said
    again = _ask(module, names, only=added)
    made = frozenset(n for n, t in added.items() if not _is_live(n, t, again.get(n)))
    # What `get_extra_state` returns may be memory of another name, and is not filled with it.
    added.update((n, added[n].clone()) for n in made if _is_extra(n))
    return Stated(added, made, states, others, frozenset(dropped))


def _sort_in(name: str, value: object, states: dict[str, State], others: dict[str, str]) -> None:
    try:
        states[name] = encode(name, value)
    except TypeError:
        others[name] = type(value).__name__


def settle(module: nn.Module, wanted: Mapping[str, object]) -> None:
    """Give a module the state that its memory does not hold, by its own methods.

    Args:
        wanted: for names that `state_dict()` makes anew, what it has to have afterwards.

    Raises:
        MismatchError: the module does not take it, and its contents are undefined.
    """
    if not wanted:
        return
    names = PlainNames(module)
    differing = _differing(module, names, wanted)
    if not differing:
        return
    try:
        _give(module, names, {name: wanted[name] for name in differing})
    except _REFUSALS as error:
        what = " ".join(str(error).split())
        raise MismatchError.of(
            f"the target refused state that only its own methods can set ({what})",
            list(map(repr, differing)),
        ) from error
    if remaining := _differing(module, names, wanted):
        what = "the target did not take state of the snapshot"
        raise MismatchError.of(what, list(map(repr, remaining)))


def _give(module: nn.Module, names: PlainNames, values: Mapping[str, object]) -> None:
    keys = {names.plain(key): key for key in module.state_dict()}
    extra = [name for name in values if _is_extra(name)]
    for name in extra:
        owner = keys[name].rpartition(".")[0]
        module.get_submodule(owner).set_extra_state(values[name])
    rest = {keys[name]: value for name, value in values.items() if name not in extra}
    if rest:
        state = module.state_dict()
        state.update(rest)
        module.load_state_dict(state)


def _is_ordinary(module: nn.Module) -> bool:
    """Say whether `state_dict()` is the parameters and persistent buffers, and nothing else."""
    kinds = set()
    for each in module.modules():
        own = vars(each)
        if own.get("_state_dict_hooks") or own.get("_state_dict_pre_hooks"):
            return False
        if not _RULES.isdisjoint(own):
            return False
        kinds.add(type(each))
    return all(getattr(kind, rule) is getattr(nn.Module, rule) for kind in kinds for rule in _RULES)


def _ask(
    module: nn.Module, names: PlainNames, only: Iterable[str] | None = None
) -> dict[str, object]:
    try:
        found = {names.plain(name): value for name, value in module.state_dict().items()}
    except _REFUSALS as error:
        what = " ".join(str(error).split())
        raise TypeError(
            f"state_dict() of {type(module).__name__} failed, so its state is not known: {what}"
        ) from error
    return found if only is None else {name: found[name] for name in only if name in found}


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA


def _is_live(name: str, one: torch.Tensor, other: object) -> bool:
    """Say whether two calls returned the same memory, which the module then has."""
    if _is_extra(name) or not isinstance(other, torch.Tensor) or not one.numel():
        return False
    if not is_strided(one):
        return True  # and refused as that, wherever it is
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and one.stride() == other.stride() and one.data_ptr() == other.data_ptr()


def _differing(module: nn.Module, names: PlainNames, wanted: Mapping[str, object]) -> list[str]:
    said = _ask(module, names, only=wanted)
    return [name for name, value in wanted.items() if not is_equal(value, said.get(name))]
