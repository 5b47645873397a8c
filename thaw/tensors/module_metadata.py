"""What a snapshot says of the module it was frozen from, in its metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from thaw_format import JSON

from .census import Census
from .unwrapping import Attributes

NON_PERSISTENT = "thaw.non_persistent"
"""Names that `state_dict()` of the module did not have, and a checkpoint does not."""
ATTRIBUTES = "thaw.attributes"
"""What tensors of subclasses compute with beside their bytes."""
STATES = "thaw.states"
"""State of the module that is no tensor, as JSON that refers to tensors."""
_T = TypeVar("_T")


def describe(census: Census) -> dict[str, JSON]:
    """Say what a restore or an export has to know, beside the tensors."""
    said: dict[str, JSON] = {}
    if census.unsaved:
        said[NON_PERSISTENT] = [name for name in census.tensors if name in census.unsaved]
    if census.states:
        said[STATES] = {name: each.said for name, each in census.states.items()}
    if census.attributes:
        said[ATTRIBUTES] = {name: dict(each) for name, each in census.attributes.items()}
    return said


def states_of(metadata: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return the state of the module that is no tensor, by name."""
    said = metadata.get(STATES)
    return said if isinstance(said, dict) else {}


def persistent(tensors: Mapping[str, _T], metadata: Mapping[str, JSON]) -> Mapping[str, _T]:
    """Leave out the tensors that a checkpoint of the same module does not have.

    Raises:
        TypeError: the module has state that is no tensor, which only a snapshot can hold.
    """
    if states := list(states_of(metadata)):
        raise TypeError(
            f"{states[0]!r} is state of the module and no tensor: a snapshot alone holds it"
        )
    names = metadata.get(NON_PERSISTENT)
    if not isinstance(names, list):
        return tensors
    absent = {name for name in names if isinstance(name, str)}
    return {name: each for name, each in tensors.items() if name not in absent}


def compare_attributes(
    metadata: Mapping[str, JSON], target: Mapping[str, Attributes], chosen: Sequence[str]
) -> Iterator[str]:
    """Say how tensors of subclasses differ in what is not their bytes."""
    stored = metadata.get(ATTRIBUTES)
    if not isinstance(stored, dict):
        return
    owners = {owner for name in chosen for owner in _owners(name)}
    for name, here in target.items():
        there = stored.get(name)
        if name in owners and isinstance(there, dict):
            yield from (
                f"{name!r} has {key} {there[key]} in the snapshot, {text} in the target"
                for key, text in here.items()
                if key in there and there[key] != text
            )


def _owners(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]
