"""Plans of a restore: where each byte of the file goes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from thaw_format import Snapshot, Source

from ..seam.plan import Extents, ReadPlan
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


Wanted: TypeAlias = tuple[int, int, torch.Tensor]
"""A storage, the byte of it from which bytes are wanted, and the contiguous memory for them."""
Row: TypeAlias = tuple[int, int, int, int, torch.Tensor]
"""A source, where in it, the address that its bytes go to, how many, and whose memory that is."""


def find_rows(snapshot: Snapshot, wanted: Iterable[Wanted]) -> Iterator[Row]:
    """Find bytes of storages in the sources."""
    for storage, start, memory in wanted:
        address = memory.data_ptr()
        for source, offset, nbytes in snapshot.runs(storage, start, start + memory.nbytes):
            yield source, offset, address, nbytes, memory
            address += nbytes


def plan_reads(
    snapshot: Snapshot, rows: Iterable[Row]
) -> tuple[tuple[int, torch.device, ReadPlan], ...]:
    """Make a plan for each source and device, in file order; rows without bytes are left out."""
    groups: dict[tuple[int, torch.device], list[Row]] = defaultdict(list)
    for row in rows:
        if row[3]:
            groups[row[0], row[4].device].append(row)
    plans = []
    for (source, device), group in groups.items():
        group.sort(key=itemgetter(1))
        _, offsets, addresses, sizes, owners = zip(*group, strict=True)
        extents = Extents(offsets, addresses, sizes, owners=owners, device=device)
        plans.append((source, device, ReadPlan(extents, snapshot.digests[source])))
    return tuple(plans)
