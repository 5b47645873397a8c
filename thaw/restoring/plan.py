"""Plans of a restore: where each byte of the file goes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

import torch
from thaw_format import STORAGE_ALIGNMENT, Snapshot, Viewer, align, collector_paused

from ..seam.plan import Extent, ReadPlan
from ..tensors.arena import allocate
from ..tensors.elements import Copy

_MAX_GAP_NBYTES = 4096

_Span: TypeAlias = tuple[int, int, int, int]
"""A storage's source, its offset there, its bytes, and its index."""


@dataclass(frozen=True, slots=True, eq=False)
class RestorePlan:
    """Everything that a restore does, decided before the first byte moves.

    Attributes:
        nbytes: the bytes of the storages or targets, without the gaps between them.
        reads: a plan for each source and device.
        count: how many tensors are handed out.
        tensors: makes what is handed out, by name; may be called while the bytes move.
        copies: to be made after the reads.
        twins: pairs of tensors that are tied in the target but stored apart: the first is not read,
            and has to have the bytes of the second.
    """

    nbytes: int
    reads: tuple[tuple[int, torch.device, ReadPlan], ...]
    count: int
    tensors: Callable[[], Mapping[str, torch.Tensor]]
    copies: tuple[Copy, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()


def plan_arena(snapshot: Snapshot, names: Sequence[str], device: torch.device) -> RestorePlan:
    """Plan to read tensors into one new allocation, and to hand out views of it."""
    specs = [snapshot.tensors[name] for name in names]
    spans = _spans(snapshot, {spec.storage for spec in specs})
    starts, end = _place(spans)
    arena = allocate(end, device)
    start_of = {index: start for (_, _, _, index), start in zip(spans, starts, strict=True)}

    def views() -> Mapping[str, torch.Tensor]:
        viewer = Viewer(arena)
        with collector_paused():
            return {
                name: viewer.view(spec, start_of[spec.storage] + spec.offset)
                for name, spec in zip(names, specs, strict=True)
            }

    nbytes = sum(nbytes for _, _, nbytes, _ in spans)
    reads = plan_reads(snapshot, _runs(spans, starts, arena))
    return RestorePlan(nbytes, reads, len(names), views)


def _spans(snapshot: Snapshot, indices: Iterable[int]) -> list[_Span]:
    """List storages in the order of the files."""
    storages = snapshot.storages
    return sorted(
        (storage.source, storage.offset, storage.nbytes, index)
        for index in indices
        for storage in (storages[index],)
    )


def _place(spans: Iterable[_Span]) -> tuple[list[int], int]:
    """Find a place in an arena for each storage; those that are close in the file stay so."""
    starts: list[int] = []
    end, before, after = 0, -1, 0
    for source, offset, nbytes, _ in spans:
        gap = offset - after if source == before else _MAX_GAP_NBYTES
        start = end + gap
        if not 0 <= gap < _MAX_GAP_NBYTES or start % STORAGE_ALIGNMENT:
            start = align(end, STORAGE_ALIGNMENT)
        starts.append(start)
        end, before, after = start + nbytes, source, offset + nbytes
    return starts, end


def _runs(
    spans: Iterable[_Span], starts: Iterable[int], arena: torch.Tensor
) -> list[tuple[int, Extent]]:
    """Join storages that keep their distance."""
    runs: list[list[int]] = []
    distance: tuple[int, int] | None = None
    for (source, offset, nbytes, _), start in zip(spans, starts, strict=True):
        if not nbytes:
            continue
        if (source, offset - start) != distance:
            distance = source, offset - start
            runs.append([source, offset, start, 0])
        runs[-1][3] = start + nbytes
    return [(source, Extent(offset, arena[start:end])) for source, offset, start, end in runs]


def plan_reads(
    snapshot: Snapshot, extents: Sequence[tuple[int, Extent]]
) -> tuple[tuple[int, torch.device, ReadPlan], ...]:
    """Group extents by source and device, each group in file order."""
    groups: dict[tuple[int, torch.device], list[Extent]] = defaultdict(list)
    for source, extent in extents:
        groups[source, extent.device].append(extent)
    return tuple(
        (
            source,
            device,
            ReadPlan(tuple(sorted(group, key=attrgetter("offset"))), snapshot.digests[source]),
        )
        for (source, device), group in groups.items()
    )
