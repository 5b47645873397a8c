"""Plans of a restore: where each byte of the file goes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import torch
from thaw_format import Snapshot, Source

from ..seam.plan import Extent, ReadPlan
from ..tensors.elements import Copy


class Made(NamedTuple):
    """What a restore hands out.

    Attributes:
        nbytes: the bytes of the storages or targets, without the gaps between them.
    """

    snapshot: Snapshot
    tensors: Mapping[str, torch.Tensor]
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class RestorePlan:
    """Everything that a restore does, decided before the first byte moves.

    Attributes:
        path: what is restored, for messages.
        reads: a plan for each source and device.
        make: makes what is handed out; called while the bytes move.
        copies: to be made after the reads.
        twins: pairs of tensors that are tied in the target but stored apart: the first is not read,
            and has to have the bytes of the second.
    """

    path: Path
    sources: tuple[Source, ...]
    reads: tuple[tuple[int, torch.device, ReadPlan], ...]
    make: Callable[[], Made]
    copies: tuple[Copy, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()


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
