"""From a snapshot to plans: where each byte of the file goes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from thaw_format import (
    Layout,
    Snapshot,
    Storage,
    TensorSpec,
    byte_view,
    layout_tensors,
    tensor_view,
)

from .arena import allocate
from .backend import Extent, ReadPlan
from .errors import MismatchError

_ALIGNMENT = 512
_MAX_GAP_NBYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A tensor that is read beside its target, where the bytes do not lie as in the file."""

    name: str
    source: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RestorePlan:
    """Everything that a restore does, decided before the first byte moves.

    Attributes:
        nbytes: the bytes of the storages or targets, without the gaps between them.
        reads: a plan for each source and device.
        tensors: what is handed out, by name.
        copies: to be made after the reads.
        twins: tensors that are tied in the target but stored apart, to be compared at the end.
    """

    nbytes: int
    reads: tuple[tuple[int, torch.device, ReadPlan], ...]
    tensors: Mapping[str, torch.Tensor]
    copies: tuple[Copy, ...] = ()
    twins: tuple[Copy, ...] = ()


def plan_arena(snapshot: Snapshot, names: Sequence[str], device: torch.device) -> RestorePlan:
    """Plan to read tensors into one new allocation, and to hand out views of it."""
    indices = {snapshot.tensors[name].storage for name in names}
    ordered = sorted(
        indices, key=lambda i: (snapshot.storages[i].source, snapshot.storages[i].offset)
    )
    starts, nbytes = _place([snapshot.storages[index] for index in ordered])
    arena = allocate(nbytes, device)
    start_of = dict(zip(ordered, starts, strict=True))
    pieces = [
        (
            snapshot.storages[i].source,
            snapshot.storages[i].offset,
            start_of[i],
            snapshot.storages[i].nbytes,
        )
        for i in ordered
    ]
    extents = _runs(pieces, arena)
    tensors = {
        name: tensor_view(arena, spec, start_of[spec.storage] + spec.offset)
        for name in names
        for spec in (snapshot.tensors[name],)
    }
    nbytes = sum(piece[3] for piece in pieces)
    return RestorePlan(nbytes, _reads(snapshot, extents), tensors)


def _place(storages: Sequence[Storage]) -> tuple[list[int], int]:
    """Find a place in an arena for each storage; those that are close in the file stay so."""
    starts: list[int] = []
    end = 0
    for index, storage in enumerate(storages):
        before = storages[index - 1] if index else None
        gap = _MAX_GAP_NBYTES
        if before and before.source == storage.source:
            gap = storage.offset - before.offset - before.nbytes
        start = end + gap if 0 <= gap < _MAX_GAP_NBYTES else -(-end // _ALIGNMENT) * _ALIGNMENT
        if start % _ALIGNMENT:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
        starts.append(start)
        end = start + storage.nbytes
    return starts, end


def _runs(
    pieces: Sequence[tuple[int, int, int, int]], arena: torch.Tensor
) -> list[tuple[int, Extent]]:
    """Join (source, file offset, arena offset, nbytes) pieces that keep their distance."""
    runs: list[list[int]] = []
    for source, offset, start, nbytes in pieces:
        if not nbytes:
            continue
        if runs and runs[-1][0] == source and runs[-1][1] - runs[-1][2] == offset - start:
            runs[-1][3] = start + nbytes
        else:
            runs.append([source, offset, start, start + nbytes])
    return [(source, Extent(offset, arena[start:end])) for source, offset, start, end in runs]


def _reads(
    snapshot: Snapshot, extents: Sequence[tuple[int, Extent]]
) -> tuple[tuple[int, torch.device, ReadPlan], ...]:
    groups: dict[tuple[int, torch.device], list[Extent]] = defaultdict(list)
    for source, extent in extents:
        groups[source, extent.memory.device].append(extent)
    return tuple(
        (
            source,
            device,
            ReadPlan(tuple(sorted(group, key=lambda e: e.offset)), snapshot.digests[source]),
        )
        for (source, device), group in groups.items()
    )


def plan_into(snapshot: Snapshot, targets: Mapping[str, torch.Tensor]) -> RestorePlan:
    """Plan to fill tensors that are there, keeping their memory, strides and ties.

    Raises:
        MismatchError: tensors that share memory on one side do not on the other.
    """
    layout = layout_tensors(targets)
    clusters = _clusters(snapshot, targets)
    twins = _check_aliasing(clusters, layout.tensors)
    extents: list[tuple[int, Extent]] = []
    copies: list[Copy] = []
    compared: list[Copy] = []
    for cluster in clusters:
        fits = _fits(cluster, snapshot, layout.tensors)
        if cluster in twins or not fits:
            memory, staged = _stage(cluster, snapshot, targets)
            (compared if cluster in twins else copies).extend(staged)
        else:
            memory = _in_place(cluster, snapshot, layout)
        extents.append((cluster.source, Extent(cluster.offset, memory)))
    nbytes = sum(cluster.nbytes for cluster in clusters)
    reads = _reads(snapshot, extents)
    return RestorePlan(nbytes, reads, targets, tuple(copies), tuple(compared))


def _in_place(cluster: _Cluster, snapshot: Snapshot, layout: Layout) -> torch.Tensor:
    first = cluster.names[0]
    into = layout.tensors[first]
    start = cluster.start + into.offset - snapshot.tensors[first].offset
    return layout.memory[into.storage][start : start + cluster.nbytes]


def _stage(
    cluster: _Cluster, snapshot: Snapshot, targets: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, list[Copy]]:
    """Allocate memory for a cluster, so aligned that its tensors can be viewed there."""
    lead = cluster.start % _ALIGNMENT
    whole = allocate(lead + cluster.nbytes, targets[cluster.names[0]].device)
    staged = []
    for name in cluster.names:
        spec = snapshot.tensors[name]
        view = tensor_view(whole, spec, lead + spec.offset - cluster.start)
        staged.append(Copy(name, view, targets[name]))
    return whole[lead:], staged


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Tensors of one storage whose bytes overlap; `start` counts from the storage's start."""

    source: int
    offset: int
    start: int
    nbytes: int
    names: tuple[str, ...]


def _clusters(snapshot: Snapshot, names: Mapping[str, object]) -> list[_Cluster]:
    spans: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name in names:
        spec = snapshot.tensors[name]
        spans[spec.storage].append((spec.offset, spec.offset + spec.extent, name))
    return [
        cluster
        for index, found in spans.items()
        for cluster in _split(snapshot.storages[index], sorted(found))
        if cluster.nbytes
    ]


def _split(storage: Storage, spans: list[tuple[int, int, str]]) -> list[_Cluster]:
    groups: list[tuple[int, int, list[str]]] = []
    for start, end, name in spans:
        if groups and start < groups[-1][1]:
            groups[-1][2].append(name)
            groups[-1] = (groups[-1][0], max(end, groups[-1][1]), groups[-1][2])
        else:
            groups.append((start, end, [name]))
    return [
        _Cluster(storage.source, storage.offset + start, start, end - start, tuple(group))
        for start, end, group in groups
    ]


def _check_aliasing(
    clusters: Sequence[_Cluster], targets: Mapping[str, TensorSpec]
) -> set[_Cluster]:
    """Return the clusters whose targets are tied to those of an earlier one."""
    owner: dict[int, _Cluster] = {}
    twins: set[_Cluster] = set()
    differences = []
    for cluster in clusters:
        storages = {targets[name].storage for name in cluster.names}
        if len(storages) > 1:
            differences.append(f"{_listed(cluster.names)} share memory in the snapshot alone")
        for storage in storages:
            before = owner.setdefault(storage, cluster)
            if before is cluster:
                continue
            names = (*before.names, *cluster.names)
            twins.add(cluster)
            if len({targets[name].layout for name in names}) > 1:
                differences.append(f"{_listed(names)} overlap in the target alone")
    if differences:
        raise MismatchError.of("tied tensors differ", differences)
    return twins


def _listed(names: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")


def _fits(cluster: _Cluster, snapshot: Snapshot, targets: Mapping[str, TensorSpec]) -> bool:
    """Say whether a cluster's bytes, as they stand, are exactly the bytes of its targets."""
    pairs = [(snapshot.tensors[name], targets[name]) for name in cluster.names]
    deltas = {target.offset - spec.offset for spec, target in pairs}
    same = all(_normal(spec) == _normal(target) for spec, target in pairs)
    if not same:
        _check_copyable(cluster, pairs)
        return False
    if len(deltas) > 1 or cluster.start + min(deltas) < 0:
        raise MismatchError(f"{_listed(cluster.names)} overlap differently in the target")
    return any(spec.extent == cluster.nbytes and _dense(spec) for spec, _ in pairs)


def _check_copyable(cluster: _Cluster, pairs: Sequence[tuple[TensorSpec, TensorSpec]]) -> None:
    if len({spec.layout for spec, _ in pairs}) > 1 or len({into.layout for _, into in pairs}) > 1:
        raise MismatchError(f"{_listed(cluster.names)} overlap with other strides in the target")


def _normal(spec: TensorSpec) -> tuple[tuple[int, int], ...]:
    """Describe a layout without the dimensions of size 1, whose strides mean nothing."""
    return tuple(
        (size, step) for size, step in zip(spec.shape, spec.stride, strict=True) if size != 1
    )


def _dense(spec: TensorSpec) -> bool:
    """Say whether the elements cover the extent, each byte once."""
    return spec.nbytes == spec.extent and _distinct(spec)


def _distinct(spec: TensorSpec) -> bool:
    reach = 1
    for step, size in sorted((step, size) for size, step in _normal(spec)):
        if step < reach:
            return False
        reach = step * (size - 1) + reach
    return True


def check_twin(twin: Copy) -> None:
    """Check that a tensor which is tied in the target was stored with the bytes of its twin.

    Raises:
        MismatchError: it was not; the target holds the bytes of the other.
    """
    if not torch.equal(_as_integers(twin.source), _as_integers(twin.target)):
        raise MismatchError(
            f"{twin.name!r} is tied to another tensor in the target, but the file has other bytes "
            "for it; the target holds those of the other"
        )


def copy_exactly(copy: Copy) -> None:
    """Copy the elements of a tensor to one of other strides, every bit as it is.

    Raises:
        MismatchError: elements of the target share memory in a way that cannot be written.
    """
    source, target = _collapse(copy.source), _collapse(copy.target)
    if source.shape != target.shape:
        raise MismatchError("a tensor is expanded on one side alone")
    with torch.no_grad():
        _as_integers(target).copy_(_as_integers(source))


def _collapse(tensor: torch.Tensor) -> torch.Tensor:
    for dimension, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[dimension] > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as integers of its width: float copies may change bits, integer ones do not."""
    if tensor.dtype.itemsize == 16:
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """View or copy a tensor's elements, in index order, as 1-D uint8."""
    plain = _as_integers(tensor.detach()).contiguous()
    start = int(plain.storage_offset()) * plain.dtype.itemsize
    return byte_view(plain, start, plain.numel() * plain.dtype.itemsize)
