"""Plans that read every storage into memory of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from thaw_format import Snapshot, Viewer, collector_paused

from ..tensors.arena import allocate_exactly
from .plan import Made, RestorePlan, find_rows, plan_reads


def plan_own(snapshot: Snapshot, names: Sequence[str], device: torch.device) -> RestorePlan:
    """Plan to read tensors into new memory, an allocation for each storage that they view."""
    specs = {name: snapshot.tensors[name] for name in names}
    used = dict.fromkeys(spec.storage for spec in specs.values())
    storages = {index: snapshot.storages[index] for index in used}
    memory = {i: allocate_exactly(each.nbytes, device) for i, each in storages.items()}

    def make() -> Made:
        viewers = {index: Viewer(each) for index, each in memory.items()}
        with collector_paused():
            views = {n: viewers[spec.storage].view(spec, spec.offset) for n, spec in specs.items()}
        return Made(snapshot, views, sum(each.nbytes for each in storages.values()))

    reads = plan_reads(snapshot, find_rows(snapshot, [(i, 0, each) for i, each in memory.items()]))
    return RestorePlan(snapshot.path, snapshot.sources, reads, make)
