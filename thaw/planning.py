"""Plans of a restore: where each byte of the file goes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    Snapshot,
    Storage,
    Viewer,
    align,
    collector_paused,
)

from .arena import allocate
from .backend import Extent, ReadPlan
from .copying import Copy

_MAX_GAP_NBYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class RestorePlan:
    """Everything that a restore does, decided before the first byte moves.

    Attributes:
        nbytes: the bytes of the storages or targets, without the gaps between them.
        reads: a plan for each source and device.
        count: how many tensors are handed out.
        tensors: makes what is handed out, by name; may be called while the bytes move.
        copies: to be made after the reads.
        twins: tensors that are tied in the target but stored apart, to be compared at the end.
    """

    nbytes: int
    reads: tuple[tuple[int, torch.device, ReadPlan], ...]
    count: int
    tensors: Callable[[], Mapping[str, torch.Tensor]]
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

    def views() -> Mapping[str, torch.Tensor]:
        viewer = Viewer(arena)
        with collector_paused():
            return {
                name: viewer.view(spec, start_of[spec.storage] + spec.offset)
                for name in names
                for spec in (snapshot.tensors[name],)
            }

    nbytes = sum(piece[3] for piece in pieces)
    return RestorePlan(nbytes, plan_reads(snapshot, extents), len(names), views)


def _place(storages: Sequence[Storage]) -> tuple[list[int], int]:
    """Find a place in an arena for each storage; those that are close in the file stay so."""
    starts: list[int] = []
    end = 0
    for index, storage in enumerate(storages):
        before = storages[index - 1] if index else None
        gap = _MAX_GAP_NBYTES
        if before and before.source == storage.source:
            gap = storage.offset - before.offset - before.nbytes
        start = end + gap
        if not 0 <= gap < _MAX_GAP_NBYTES or start % STORAGE_ALIGNMENT:
            start = align(end, STORAGE_ALIGNMENT)
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


def plan_reads(
    snapshot: Snapshot, extents: Sequence[tuple[int, Extent]]
) -> tuple[tuple[int, torch.device, ReadPlan], ...]:
    """Group extents by source and device, each group in file order."""
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
