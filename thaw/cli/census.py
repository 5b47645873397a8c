"""What the bytes of a snapshot are: by dtype, by name, tied or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from thaw_format import Snapshot, TensorSpec


@dataclass(frozen=True, slots=True)
class Share:
    """Tensors that have something in common, and the bytes that they take in the file.

    Tied tensors take theirs once, expanded ones those of their extent.
    """

    name: str
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Names of the same elements."""

    names: tuple[str, ...]
    spec: TensorSpec


def by_dtype(snapshots: Sequence[Snapshot]) -> list[Share]:
    """Divide the bytes by dtype, largest first."""
    return _divide(snapshots, lambda name, spec: spec.dtype_name)


def by_name(snapshots: Sequence[Snapshot]) -> list[Share]:
    """Divide the bytes by the beginning of names, largest first."""
    return _divide(snapshots, lambda name, spec: group_of(name))


def group_of(name: str) -> str:
    """Name the group of a tensor: up to two words before its last, up to the first number.

    For example `model.layers` of `model.layers.0.mlp.up_proj.weight`.
    """
    words = name.split(".")
    kept: list[str] = []
    for word in words[:-1][:2]:
        if word.isdecimal():
            break
        kept.append(word)
    return ".".join(kept) or words[0]


def ties(snapshots: Sequence[Snapshot]) -> list[Tie]:
    """List the tensors that have several names, within each rank."""
    found = []
    for snapshot in snapshots:
        names: defaultdict[object, list[str]] = defaultdict(list)
        for name, spec in snapshot.tensors.items():
            if spec.extent:
                names[spec.layout].append(name)
        for group in names.values():
            if len(group) > 1:
                found.append(Tie(tuple(group), snapshot.tensors[group[0]]))
    return found


def elements(snapshots: Sequence[Snapshot]) -> int:
    """Count the elements, those of tied tensors once."""
    return sum(spec.nbytes // spec.itemsize for _, spec, new in _walk(snapshots) if new)


def _divide(snapshots: Sequence[Snapshot], key: Callable[[str, TensorSpec], str]) -> list[Share]:
    tensors: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for name, spec, new in _walk(snapshots):
        group = key(name, spec)
        tensors[group] += 1
        nbytes[group] += min(spec.nbytes, spec.extent) if new else 0
    ordered = sorted(tensors, key=lambda group: (-nbytes[group], group))
    return [Share(group, tensors[group], nbytes[group]) for group in ordered]


def _walk(snapshots: Sequence[Snapshot]) -> Iterator[tuple[str, TensorSpec, bool]]:
    for snapshot in snapshots:
        seen = set()
        for name, spec in snapshot.tensors.items():
            yield name, spec, spec.layout not in seen
            seen.add(spec.layout)
