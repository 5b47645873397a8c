"""Plans that fill tensors which are there: in place where layouts agree, else beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    Layout,
    Snapshot,
    TensorSpec,
    layout_tensors,
    merge_overlapping,
    tensor_view,
)

from ..errors import MismatchError
from ..tensors.arena import allocate
from ..tensors.elements import Copy
from ..tensors.strides import apart, covers, distinct, expanded, normal
from .in_place import find_singles
from .plan import Made, RestorePlan, find_rows, plan_reads


def plan_into(snapshot: Snapshot, targets: Mapping[str, torch.Tensor]) -> RestorePlan:
    """Plan to fill tensors that are there, keeping their memory, strides and ties.

    Raises:
        MismatchError: tensors that share memory on one side do not on the other.
    """
    singles = find_singles(snapshot, targets)
    others = {name: target for name, target in targets.items() if name not in singles}
    layout = layout_tensors(others)
    _check_apart(layout)
    groups = _groups(snapshot, others)
    twins = _check_aliasing([each for group in groups for each in group], layout.tensors)
    wanted = [(storage, start, targets[name]) for name, (storage, start) in singles.items()]
    copies: list[Copy] = []
    for group in groups:
        fits = [_fits(cluster, snapshot, layout.tensors) for cluster in group]
        left = [cluster for cluster in group if cluster not in twins]
        if not left:
            continue
        whole = group[0] if len(group) == 1 else _span(group)
        if fits == [True]:
            memory = _in_place(whole, snapshot, layout)
        else:
            names = [name for cluster in left for name in cluster.names]
            memory, staged = _stage(whole, names, snapshot, targets)
            copies.extend(staged)
        wanted.append((whole.storage, whole.start, memory))
    nbytes = sum(memory.nbytes for _, _, memory in wanted)
    reads = plan_reads(snapshot, find_rows(snapshot, wanted))
    pairs = tuple((name, owner) for cluster, owner in twins.items() for name in cluster.names)
    made = Made(snapshot, targets, nbytes)
    return RestorePlan(snapshot.path, snapshot.sources, reads, lambda: made, tuple(copies), pairs)


def _check_apart(layout: Layout) -> None:
    """Refuse memory that several storages of torch share: what fills one would change another."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, spec in layout.tensors.items():
        names[spec.storage].append(name)
    spans = sorted(
        (str(memory.device), memory.data_ptr(), memory.data_ptr() + memory.numel(), index)
        for index, memory in enumerate(layout.memory)
        if memory.numel()
    )
    for (place, _, end, one), (other_place, start, _, two) in pairwise(spans):
        if place == other_place and start < end:
            listed = _listed((*names[one], *names[two]))
            raise MismatchError(f"{listed} share memory in the target, by storages of their own")


def _in_place(cluster: _Cluster, snapshot: Snapshot, layout: Layout) -> torch.Tensor:
    first = cluster.names[0]
    into = layout.tensors[first]
    start = cluster.start + into.offset - snapshot.tensors[first].offset
    return layout.memory[into.storage][start : start + cluster.nbytes]


def _stage(
    cluster: _Cluster,
    names: Sequence[str],
    snapshot: Snapshot,
    targets: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, list[Copy]]:
    """Allocate memory for a cluster, so aligned that its tensors can be viewed there."""
    lead = cluster.start % STORAGE_ALIGNMENT
    whole = allocate(lead + cluster.nbytes, targets[names[0]].device)
    staged = []
    for name in names:
        spec = snapshot.tensors[name]
        view = tensor_view(whole, spec, lead + spec.offset - cluster.start)
        staged.append(Copy(name, view, targets[name]))
    return whole[lead:], staged


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Tensors of one storage that share elements; `start` counts from the storage's start."""

    storage: int
    start: int
    nbytes: int
    names: tuple[str, ...]


def _groups(snapshot: Snapshot, names: Mapping[str, object]) -> list[list[_Cluster]]:
    """Group tensors whose extents overlap, each group in clusters that share no element."""
    spans: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name in names:
        spec = snapshot.tensors[name]
        spans[spec.storage].append((spec.offset, spec.offset + spec.extent, name))
    return [
        [_cluster(snapshot, each) for each in _parted([name for _, _, name in group], snapshot)]
        for found in spans.values()
        for start, end, group in merge_overlapping(found)
        if end > start
    ]


def _cluster(snapshot: Snapshot, names: Sequence[str]) -> _Cluster:
    specs = [snapshot.tensors[name] for name in names]
    start = min(spec.offset for spec in specs)
    end = max(spec.offset + spec.extent for spec in specs)
    return _Cluster(specs[0].storage, start, end - start, tuple(names))


def _span(group: Sequence[_Cluster]) -> _Cluster:
    """Return what holds several clusters, whose extents overlap."""
    first = min(group, key=lambda each: each.start)
    end = max(each.start + each.nbytes for each in group)
    names = tuple(name for each in group for name in each.names)
    return _Cluster(first.storage, first.start, end - first.start, names)


def _parted(names: Sequence[str], snapshot: Snapshot) -> list[list[str]]:
    """Part names whose extents overlap, in the order of their starts, by shared elements."""
    parts: list[list[str]] = []
    for name in names:
        spec, joined, others = snapshot.tensors[name], [name], []
        for part in parts:
            if _is_apart(spec, part, snapshot.tensors):
                others.append(part)
            else:
                joined = part + joined
        parts = [*others, joined]
    return parts


def _is_apart(spec: TensorSpec, names: Sequence[str], specs: Mapping[str, TensorSpec]) -> bool:
    return all(apart(spec, specs[name]) for name in names)


def _check_aliasing(
    clusters: Sequence[_Cluster], targets: Mapping[str, TensorSpec]
) -> dict[_Cluster, str]:
    """Return the clusters whose targets are tied to a tensor of an earlier one, and which."""
    owners: dict[int, list[_Cluster]] = defaultdict(list)
    twins: dict[_Cluster, str] = {}
    differences = []
    for cluster in clusters:
        storages = {targets[name].storage for name in cluster.names}
        if len(storages) > 1:
            differences.append(f"{_listed(cluster.names)} share memory in the snapshot alone")
        for storage in storages:
            for before in owners[storage]:
                names = (*before.names, *cluster.names)
                if len({targets[name].layout for name in names}) == 1:
                    twins[cluster] = before.names[0]
                elif not all(_is_apart(targets[n], before.names, targets) for n in cluster.names):
                    differences.append(f"{_listed(names)} overlap in the target alone")
            if cluster not in twins:
                owners[storage].append(cluster)
    if differences:
        untied = any("in the snapshot alone" in line for line in differences)
        hint = "; tie them in the target first: Module.to_empty unties" if untied else ""
        raise MismatchError.of("tied tensors differ", differences, hint)
    return twins


def _listed(names: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")


def _fits(cluster: _Cluster, snapshot: Snapshot, targets: Mapping[str, TensorSpec]) -> bool:
    """Say whether a cluster's bytes, as they stand, are exactly the bytes of its targets."""
    pairs = [(snapshot.tensors[name], targets[name]) for name in cluster.names]
    deltas = {target.offset - spec.offset for spec, target in pairs}
    same = all(
        spec.stride == target.stride or normal(spec) == normal(target) for spec, target in pairs
    )
    if not same:
        _check_one_layout(cluster, pairs)
    elif len(deltas) > 1 or cluster.start + min(deltas) < 0:
        raise MismatchError(f"{_listed(cluster.names)} overlap differently in the target")
    elif any(spec.extent == cluster.nbytes and covers(spec) for spec, _ in pairs):
        return True
    for name, (spec, into) in zip(cluster.names, pairs, strict=True):
        _check_copyable(name, spec, into)
    return False


def _check_copyable(name: str, spec: TensorSpec, into: TensorSpec) -> None:
    """Check that elements can be copied one by one, as `copy_exactly` does."""
    if expanded(spec) != expanded(into):
        raise MismatchError(f"{name!r} is expanded in the snapshot or in the target alone")
    if not distinct(into):
        raise MismatchError(f"elements of {name!r} overlap each other in the target")


def _check_one_layout(cluster: _Cluster, pairs: Sequence[tuple[TensorSpec, TensorSpec]]) -> None:
    if len({spec.layout for spec, _ in pairs}) > 1 or len({into.layout for _, into in pairs}) > 1:
        raise MismatchError(f"{_listed(cluster.names)} overlap with other strides in the target")
