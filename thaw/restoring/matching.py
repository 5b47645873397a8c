"""Does a snapshot fit a target? Decided from headers alone, before any byte moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from thaw_format import JSON, Snapshot, TensorSpec, has_memory, is_strided

from ..errors import MismatchError
from ..tensors.arena import allocate_like
from ..tensors.census import Census
from ..tensors.module_metadata import compare_attributes, states_of
from ..tensors.structured import decode, names_in

_T = TypeVar("_T")
_LISTED = 3
_SPECIAL = frozenset("*?[")
"""Characters that mean something in patterns."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Which target tensor each tensor of the snapshot fills.

    Attributes:
        targets: by name, names of the snapshot that the target has.
        kept: names of the target that nothing fills.
        made: those of the targets that are new memory, which a module has to be given.
        states: state that is no tensor, as the snapshot says it, and that it has to be given too.
    """

    targets: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    made: frozenset[str] = frozenset()
    states: Mapping[str, JSON] = field(default_factory=dict)

    def given(self) -> dict[str, object]:
        """Return what the target has to be given, once it is read."""
        given: dict[str, object] = {name: self.targets[name] for name in self.made}
        for name, said in self.states.items():
            given[name] = decode(name, said, self.targets)
        return given


def select_names(known: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Choose names by shell-style patterns; None chooses all.

    Raises:
        MismatchError: a pattern fits no name.
    """
    known = list(known)
    if patterns is None:
        return known
    patterns = [patterns] if isinstance(patterns, str) else patterns
    plain, others = _parted(patterns)
    unused = plain.difference(known)
    unused.update(p for p in others if not any(fnmatchcase(name, p) for name in known))
    if unused:
        listed = [repr(pattern) for pattern in patterns if pattern in unused]
        raise MismatchError.of("no tensor has a name like", listed)
    return [name for name in known if _is_like(name, plain, others)]


def literal(name: str) -> str:
    """Quote the characters that are special in patterns."""
    return "".join(f"[{c}]" if c in _SPECIAL else c for c in name)


def _parted(patterns: Sequence[str]) -> tuple[set[str], list[str]]:
    """Part plain names, which are looked up, from patterns, which are tried one by one."""
    others = [pattern for pattern in patterns if not _SPECIAL.isdisjoint(pattern)]
    return set(patterns).difference(others), others


def _is_like(name: str, plain: set[str], others: Sequence[str]) -> bool:
    return name in plain or any(fnmatchcase(name, pattern) for pattern in others)


def match(
    snapshot: Snapshot, census: Census, patterns: str | Sequence[str] | None, *, strict: bool
) -> Match:
    """Pair the tensors of a snapshot with those of a target, by name.

    Args:
        patterns: restricts both sides to names like these.
        strict: whether missing and unexpected names are errors. Shapes and dtypes always are.

    Raises:
        MismatchError: they differ; `.differences` lists how.
    """
    stored = states_of(snapshot.metadata)
    inside = {each for said in stored.values() for each in names_in(said)}
    chosen = [name for name in select_names(snapshot.tensors, patterns) if name not in inside]
    wanted, states = _wanted(census.tensors, patterns), _wanted(stored, patterns)
    here = [*_wanted(census.states, patterns), *_wanted(census.others, patterns)]
    missing = [*_missing(wanted, chosen), *(name for name in here if name not in states)]
    unexpected = [
        *(name for name in chosen if name not in wanted),
        *(name for name in states if name not in here),
    ]
    differences = [
        *_differences(snapshot, wanted, chosen, census.made),
        *compare_attributes(snapshot.metadata, census.attributes, chosen),
    ]
    names_only = not differences
    if strict:
        absent = (name for name in missing if name not in census.optional)
        differences += [f"{name!r} is not in the snapshot" for name in absent]
        differences += [f"{name!r} is not in the target" for name in unexpected]
    elif len(unexpected) == len(chosen) + len(states) and (unexpected or missing):
        differences.append("the target has none of its names")
    if differences:
        hint = _about_names(wanted, chosen, strict) if names_only else _about_meta(wanted, missing)
        count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
        raise MismatchError.of(f"{snapshot.path} does not fit: {count}", differences, hint)
    common = {name: said for name, said in states.items() if name in here}
    targets = {name: wanted[name] for name in chosen if name in wanted}
    return Match(targets, tuple(missing), census.made.intersection(targets), common)


def _differences(
    snapshot: Snapshot,
    wanted: Mapping[str, torch.Tensor],
    chosen: Sequence[str],
    made: frozenset[str],
) -> Iterator[str]:
    for name in chosen:
        target = wanted.get(name)
        if target is None or name in made or _is_alike(snapshot.tensors[name], target):
            continue
        yield from _compare(name, snapshot.tensors[name], target)


def with_new_memory(snapshot: Snapshot, fit: Match, census: Census) -> Match:
    """Put new memory, as the snapshot has it, in the place of what a module has to be given.

    Raises:
        MismatchError: the snapshot says state in a way that is not known.
    """
    targets = dict(fit.targets)
    for name in fit.made:
        targets[name] = allocate_like(snapshot.tensors[name], fit.targets[name].device)
    for name, said in fit.states.items():
        state = census.states.get(name)
        here = next(iter(state.tensors.values()), None) if state else None
        device = torch.device("cpu") if here is None else here.device
        for inner in names_in(said):
            if inner in snapshot.tensors:
                targets[inner] = allocate_like(snapshot.tensors[inner], device)
        decode(name, said, targets)
    return replace(fit, targets=targets)


def _about_names(
    wanted: Mapping[str, object],
    chosen: Sequence[str],
    strict: bool,
) -> str:
    """Say what to do about names that differ: in a prefix, if one is the reason."""
    absent = list(wanted.keys() - set(chosen))
    unexpected = [name for name in chosen if name not in wanted]
    if prefix := _prefix_of(unexpected, absent):
        return (
            f" (names of the snapshot begin with {prefix!r}, those of the target do not: give a "
            f"mapping, {{{prefix!r} + name: t for name, t in module.state_dict().items()}})"
        )
    if prefix := _prefix_for(unexpected, absent):
        return (
            f" (names of the target begin with {prefix!r}, those of the snapshot do not: give the "
            "module without its wrapper)"
        )
    return " (strict=False restores what both have)" if strict else ""


def _prefix_of(names: Sequence[str], known: Iterable[str]) -> str:
    """Find what all names begin with, and what makes known ones of them when it is taken away."""
    others, first = set(known), names[0] if names else ""
    for position, character in enumerate(first):
        prefix = first[: position + 1]
        if character == "." and all(
            name.startswith(prefix) and name.removeprefix(prefix) in others for name in names
        ):
            return prefix
    return ""


def _prefix_for(names: Sequence[str], known: Iterable[str]) -> str:
    """Find what makes known ones of all names when it is put before them."""
    others = set(known)
    for other in others if names else ():
        prefix = other.removesuffix(names[0])
        if prefix != other and prefix.endswith(".") and all(prefix + n in others for n in names):
            return prefix
    return ""


def _about_meta(wanted: Mapping[str, torch.Tensor], missing: Sequence[str]) -> str:
    """Say what becomes of meta tensors that the snapshot does not fill."""
    empty = [name for name in missing if name in wanted and wanted[name].is_meta]
    if not empty:
        return ""
    more = " ..." if len(empty) > _LISTED else ""
    return (
        f" (the snapshot lacks {', '.join(map(repr, empty[:_LISTED]))}{more}, which have no values "
        "after Module.to_empty: compute them)"
    )


def _wanted(named: Mapping[str, _T], patterns: str | Sequence[str] | None) -> Mapping[str, _T]:
    if patterns is None:
        return named
    plain, others = _parted([patterns] if isinstance(patterns, str) else patterns)
    return {name: each for name, each in named.items() if _is_like(name, plain, others)}


def _is_alike(spec: TensorSpec, target: torch.Tensor) -> bool:
    """Say whether there is nothing to report of a tensor."""
    return spec.dtype == target.dtype and spec.shape == target.shape and _is_plain(target)


def _is_plain(target: torch.Tensor) -> bool:
    return is_strided(target) and not (target.is_conj() or target.is_neg()) and has_memory(target)


def _compare(name: str, spec: TensorSpec, target: torch.Tensor) -> Iterator[str]:
    if spec.dtype != target.dtype:
        there, here = _word(spec.dtype), _word(target.dtype)
        yield f"{name!r} is {there} in the snapshot, {here} in the target"
    if spec.shape != tuple(target.shape):
        yield (
            f"{name!r} has shape {list(spec.shape)} in the snapshot, "
            f"{list(target.shape)} in the target"
        )
    if target.is_meta:
        yield f"{name!r} is a meta tensor in the target: give it memory first (Module.to_empty)"
    elif not is_strided(target):
        yield f"{name!r} is no plain strided tensor in the target"
    elif target.is_conj() or target.is_neg():
        # Its bytes are those of another tensor, and mean something else.
        yield f"{name!r} is a conjugated or negated view in the target"
    elif not has_memory(target):
        yield f"{name!r} has no memory for its elements in the target: its storage was freed"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _missing(wanted: Mapping[str, torch.Tensor], chosen: Sequence[str]) -> list[str]:
    """Name the target tensors that no name of the snapshot fills, directly or by a tie."""
    present = set(chosen)
    absent = [name for name in wanted if name not in present]
    if not absent:
        return []
    filled = {_identity(wanted[name]) for name in chosen if name in wanted}
    return [name for name in absent if _identity(wanted[name]) not in filled]


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.is_meta or not tensor.numel():
        return (id(tensor),)
    address = tensor.data_ptr()
    return (tensor.device, address, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))
