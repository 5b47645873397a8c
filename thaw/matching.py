"""Does a snapshot fit a target? Decided from headers alone, before any byte moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from thaw_format import Snapshot, TensorSpec, has_memory, is_strided

from .census import Census
from .errors import MismatchError

_SPECIAL = frozenset("*?[")
"""Characters that mean something in patterns."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Which target tensor each tensor of the snapshot fills.

    Attributes:
        targets: by name, names of the snapshot that the target has.
        kept: names of the target that nothing fills.
    """

    targets: Mapping[str, torch.Tensor]
    kept: tuple[str, ...]


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
    chosen = select_names(snapshot.tensors, patterns)
    wanted = _wanted(census, patterns)
    differences = [
        line
        for name in chosen
        if name in wanted and not _is_alike(snapshot.tensors[name], wanted[name])
        for line in _compare(name, snapshot.tensors[name], wanted[name])
    ]
    missing = _missing(wanted, chosen)
    if strict:
        differences += [
            f"{name!r} is not in the snapshot" for name in missing if name not in census.optional
        ]
        differences += [f"{name!r} is not in the target" for name in chosen if name not in wanted]
    if differences:
        count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
        names_only = all("is not in the" in line for line in differences)
        hint = " (strict=False restores what both have)" if names_only else ""
        raise MismatchError.of(f"{snapshot.path} does not fit: {count}", differences, hint)
    return Match({name: wanted[name] for name in chosen if name in wanted}, tuple(missing))


def _wanted(census: Census, patterns: str | Sequence[str] | None) -> Mapping[str, torch.Tensor]:
    if patterns is None:
        return census.tensors
    plain, others = _parted([patterns] if isinstance(patterns, str) else patterns)
    return {name: each for name, each in census.tensors.items() if _is_like(name, plain, others)}


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
