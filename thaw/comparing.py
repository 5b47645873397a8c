"""Diff: how two snapshots differ."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from thaw_format import Run, Snapshot

from .aliasing import aliasing_differences
from .plugins.host import registry
from .plugins.opening import open_snapshot
from .reports import Difference, Restored, TensorDifference
from .restoring.api import restore
from .restoring.matching import literal
from .seam.backend import Backend, Progress
from .tensors.elements import bytes_of
from .tensors.limits import check_limit
from .tensors.strides import normal


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    backend: str | Backend = "auto",
    rank: int | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Compare two snapshots of any known formats, tensor by tensor, byte by byte.

    Strides, and which tensors share memory, are compared where both formats can say them. Both
    snapshots are verified on the way, and held in host memory a group of tensors at a time.

    Raises:
        FormatError: one of them is damaged, or its tensors far outgrow its files.
        MismatchError: one of them has several ranks and none was named.
    """
    with open_snapshot(a, rank=rank) as one, open_snapshot(b, rank=rank) as two:
        common = [name for name in one.tensors if name in two.tensors]
        alike = [name for name in common if not _spec_difference(name, one, two)]
        changed = [d for name in common if (d := _spec_difference(name, one, two))]
        for each in (one, two):
            check_limit(each, alike)
        if _keeps_layout(one) and _keeps_layout(two):
            changed += _stride_differences(alike, one, two)
            changed += aliasing_differences(common, one, two)
        for group in _groups(one, alike):
            names = [literal(name) for name in group]
            left = restore(one, names=names, backend=backend, progress=progress)
            right = restore(two, names=names, backend=backend, progress=progress)
            changed += _byte_differences(group, left, right)
        return Difference(
            only_in_a=tuple(name for name in one.tensors if name not in two.tensors),
            only_in_b=tuple(name for name in two.tensors if name not in one.tensors),
            changed=tuple(sorted(changed, key=lambda each: each.name)),
            tensors_compared=len(common),
        )


_GROUP_NBYTES = 256 << 20


def _groups(snapshot: Snapshot, names: list[str]) -> Iterator[list[str]]:
    """Cut names into groups that fit in memory, in file order: chunks are read about once."""

    def place(name: str) -> tuple[Run, ...]:
        return snapshot.runs(snapshot.tensors[name].storage, 0, 0)

    group: list[str] = []
    nbytes = 0
    for name in sorted(names, key=place):
        group.append(name)
        nbytes += snapshot.tensors[name].extent
        if nbytes >= _GROUP_NBYTES:
            yield group
            group, nbytes = [], 0
    if group:
        yield group


def _spec_difference(name: str, a: Snapshot, b: Snapshot) -> TensorDifference | None:
    one, two = a.tensors[name], b.tensors[name]
    if one.dtype != two.dtype:
        return TensorDifference(name, "dtype", str(one.dtype), str(two.dtype))
    if one.shape != two.shape:
        return TensorDifference(name, "shape", str(list(one.shape)), str(list(two.shape)))
    return None


def _stride_differences(names: list[str], a: Snapshot, b: Snapshot) -> Iterator[TensorDifference]:
    for name in names:
        one, two = a.tensors[name], b.tensors[name]
        if one.stride != two.stride and one.extent and normal(one) != normal(two):
            yield TensorDifference(name, "stride", str(list(one.stride)), str(list(two.stride)))


def _keeps_layout(snapshot: Snapshot) -> bool:
    found = registry().formats.get(snapshot.format)
    return found is not None and found.keeps_layout


def _byte_differences(
    names: list[str], left: Restored, right: Restored
) -> Iterator[TensorDifference]:
    for name in names:
        one, two = bytes_of(left[name]), bytes_of(right[name])
        if not torch.equal(one, two):
            where = (one != two).nonzero()
            first, count = int(where[0]), f"{len(where)} of {one.numel()} bytes differ"
            yield TensorDifference(
                name,
                "bytes",
                f"{count}; {int(one[first]):#04x} at {first}",
                f"{int(two[first]):#04x}",
            )
