"""Plans that read many storages into one allocation, and hand out views of it.

The payload of a `.thaw` file is itself an arena of its tensors (specification, STO-1), and the
superblock says where it lies: it can be read while the manifest is parsed, which of thousands of
tensors takes a good part of the time that their bytes take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    Digests,
    Run,
    ShardFile,
    Snapshot,
    Source,
    UnparsedShard,
    Viewer,
    align,
    collector_paused,
)

from ..errors import MismatchError
from ..seam.plan import Extents, ReadPlan
from ..tensors.arena import allocate
from .plan import Made, RestorePlan, Row, plan_reads

_MAX_GAP_NBYTES = 4096
_WORTH_NBYTES = 1 << 20
"""Parsing a smaller manifest takes too little time to be hidden."""
_SMALL_NBYTES = 4 << 20
"""Gaps of so many bytes together are of no account."""
_ELEMENT_ALIGNMENT = 16
"""Of the widest elements."""
_STORAGE_NBYTES = re.compile(rb'"nbytes"\s*:\s*(\d{1,16})')
"""What says in a manifest how large a storage is. In a name or a text its quotes are escaped."""
_Span: TypeAlias = tuple[tuple[Run, ...], int]
"""Where a storage lies, and its index."""


def is_worth_it(shard: UnparsedShard) -> bool:
    """Say whether parsing the manifest takes long enough to be done while bytes move.

    And whether the payload is hardly more than its storages: all of it becomes the arena, and
    another writer may have left large gaps in it.
    """
    payload_nbytes = shard.digests.chunks.nbytes
    if len(shard.manifest) < _WORTH_NBYTES or not payload_nbytes:
        return False
    sizes = _STORAGE_NBYTES.findall(shard.manifest)
    gaps_nbytes = payload_nbytes - sum(map(int, sizes)) - len(sizes) * (STORAGE_ALIGNMENT - 1)
    return gaps_nbytes <= max(_SMALL_NBYTES, payload_nbytes // 8)


def plan_ahead(shard: UnparsedShard, device: torch.device) -> RestorePlan:
    """Plan to read the payload as it is laid out, while its manifest is parsed."""
    return plan_payload(shard, allocate(shard.digests.chunks.nbytes, device))


def plan_payload(shard: UnparsedShard | ShardFile, arena: torch.Tensor) -> RestorePlan:
    """Plan to read the payload as it is laid out into memory that is there.

    Args:
        arena: a contiguous 1-D uint8 tensor that holds the payload, and maybe more.

    Raises:
        MismatchError: it is none, too small, or not aligned to the widest elements.
    """
    source, digests = _payload(shard)
    chunks = digests.chunks
    memory = _fitting(arena, chunks.nbytes)
    extents = Extents.over([chunks.offset], [memory]) if chunks.nbytes else None
    reads = ((0, memory.device, ReadPlan(extents, digests)),) if extents else ()

    def make() -> Made:
        snapshot = shard.parse() if isinstance(shard, UnparsedShard) else shard
        return view_payload(snapshot, memory)

    return RestorePlan(source.path, (source,), reads, make)


def view_payload(snapshot: ShardFile, memory: torch.Tensor) -> Made:
    """View every tensor in memory that holds the payload, or will."""
    viewed = {spec.storage for spec in snapshot.tensors.values()}
    start = _payload(snapshot)[1].chunks.offset
    with collector_paused():
        starts = [storage.offset - start for storage in snapshot.storages]
        viewer = Viewer(memory)
        views = {
            name: viewer.view(spec, starts[spec.storage] + spec.offset)
            for name, spec in snapshot.tensors.items()
        }
    return Made(snapshot, views, sum(snapshot.storages[index].nbytes for index in viewed))


def _payload(shard: UnparsedShard | ShardFile) -> tuple[Source, Digests]:
    if isinstance(shard, UnparsedShard):
        return shard.source, shard.digests
    (source,), (digests,) = shard.sources, shard.digests
    assert digests is not None
    return source, digests


def _fitting(arena: torch.Tensor, nbytes: int) -> torch.Tensor:
    if arena.dtype is not torch.uint8 or arena.ndim != 1 or not arena.is_contiguous():
        raise MismatchError(
            f"arena is {arena.dtype} {tuple(arena.shape)}, expected a contiguous 1-D uint8 tensor"
        )
    if arena.numel() < nbytes:
        raise MismatchError(f"arena has {arena.numel()} bytes, and the payload {nbytes}")
    if arena.data_ptr() % _ELEMENT_ALIGNMENT or arena.storage_offset() % _ELEMENT_ALIGNMENT:
        raise MismatchError(f"arena does not begin at a multiple of {_ELEMENT_ALIGNMENT} bytes")
    return arena[:nbytes]


def plan_arena(snapshot: Snapshot, names: Sequence[str], device: torch.device) -> RestorePlan:
    """Plan to read tensors into one new allocation, and to hand out views of it."""
    specs = [snapshot.tensors[name] for name in names]
    spans = _spans(snapshot, {spec.storage for spec in specs})
    starts, end = _place(spans)
    arena = allocate(end, device)
    start_of = {index: start for (_, index), start in zip(spans, starts, strict=True)}

    def make() -> Made:
        viewer = Viewer(arena)
        with collector_paused():
            views = {
                name: viewer.view(spec, start_of[spec.storage] + spec.offset)
                for name, spec in zip(names, specs, strict=True)
            }
        return Made(snapshot, views, sum(snapshot.storages[index].nbytes for index in start_of))

    reads = plan_reads(snapshot, _rows(spans, starts, arena))
    return RestorePlan(snapshot.path, snapshot.sources, reads, make)


def _spans(snapshot: Snapshot, indices: Iterable[int]) -> list[_Span]:
    """List storages in the order of the files."""
    sizes = snapshot.storages
    return sorted((snapshot.runs(index, 0, sizes[index].nbytes), index) for index in indices)


def _place(spans: Iterable[_Span]) -> tuple[list[int], int]:
    """Find a place in an arena for each storage; those that are close in the file stay so."""
    starts: list[int] = []
    end, before, after = 0, -1, 0
    for runs, _ in spans:
        source, offset, _ = runs[0]
        gap = offset - after if source == before else _MAX_GAP_NBYTES
        start = end + gap
        if not 0 <= gap < _MAX_GAP_NBYTES or start % STORAGE_ALIGNMENT:
            start = align(end, STORAGE_ALIGNMENT)
        starts.append(start)
        end = start + sum(nbytes for _, _, nbytes in runs)
        before, after = runs[-1].source, runs[-1].offset + runs[-1].nbytes
    return starts, end


def _rows(spans: Iterable[_Span], starts: Iterable[int], arena: torch.Tensor) -> Iterator[Row]:
    """Join runs that keep their distance."""
    joined: list[list[int]] = []
    distance: tuple[int, int] | None = None
    for (runs, _), start in zip(spans, starts, strict=True):
        for source, offset, nbytes in runs:
            if nbytes and (source, offset - start) != distance:
                distance = source, offset - start
                joined.append([source, offset, start, 0])
            start += nbytes
            if nbytes:
                joined[-1][3] = start
    address = arena.data_ptr()
    for source, offset, start, end in joined:
        yield source, offset, address + start, end - start, arena
