"""Tensors of a snapshot as byte ranges of its files, to be read a bounded part at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    ChecksumError,
    Layout,
    Snapshot,
    Storage,
    TensorSpec,
    Viewer,
    align,
    collector_paused,
    merge_overlapping,
)

from ..seam.backend import Backend, Progress
from ..tensors.arena import allocate
from .damage import named
from .plan import Wanted, find_rows, plan_reads

BUFFER_NBYTES = 64 << 20

_Span: TypeAlias = tuple[int, int, int, str]
"""The start and end of a tensor in its storage, its order and its name."""


@dataclass(frozen=True, slots=True)
class Region:
    """A byte range of a storage that tensors view; those that overlap share one.

    Attributes:
        start: in the storage.
        tensors: for each name its view, `offset` from the start of the region.
    """

    storage: int
    start: int
    nbytes: int
    tensors: Mapping[str, TensorSpec]


def find_regions(snapshot: Snapshot, names: Sequence[str]) -> list[Region]:
    """Find the regions of tensors, in the order of their first names."""
    spans: defaultdict[int, list[_Span]] = defaultdict(list)
    groups: list[tuple[int, int, list[_Span]]] = []
    for order, name in enumerate(names):
        spec = snapshot.tensors[name]
        span = (spec.offset, spec.offset + spec.extent, order, name)
        if spec.extent:
            spans[spec.storage].append(span)
        else:
            # Tensors without bytes share memory with nothing.
            groups.append((spec.offset, spec.offset, [span]))
    for each in spans.values():
        groups += merge_overlapping(each)
    groups.sort(key=lambda group: min(order for _, _, order, _ in group[2]))
    return [_region(snapshot, start, end, members) for start, end, members in groups]


def _region(snapshot: Snapshot, start: int, end: int, members: Sequence[_Span]) -> Region:
    specs = {name: snapshot.tensors[name] for _, _, _, name in members}
    first = next(iter(specs.values()))
    # Views of several dtypes need a start that suits the widest.
    start -= start % max(spec.dtype.itemsize for spec in specs.values())
    tensors = {name: replace(spec, offset=spec.offset - start) for name, spec in specs.items()}
    return Region(first.storage, start, end - start, tensors)


def lay_out(regions: Sequence[Region], names: Sequence[str]) -> Layout:
    """Place regions in a payload, each as a storage whose memory is not there yet."""
    storages: list[Storage] = []
    tensors: dict[str, TensorSpec] = {}
    end = 0
    for region in regions:
        storage = Storage(align(end, STORAGE_ALIGNMENT), region.nbytes)
        for name, spec in region.tensors.items():
            tensors[name] = replace(spec, storage=len(storages))
        storages.append(storage)
        end = storage.offset + storage.nbytes
    return Layout(tuple(storages), (), {name: tensors[name] for name in names})


def read_into(
    snapshot: Snapshot,
    wanted: Iterable[Wanted],
    mover: Backend,
    progress: Progress | None,
) -> None:
    """Read byte ranges of storages to host memory, and check their digests."""
    plans = plan_reads(snapshot, find_rows(snapshot, wanted))
    try:
        mover.read_all(
            [(snapshot.sources[source], plan) for source, _, plan in plans], progress=progress
        )
    except ChecksumError as error:
        raise named(snapshot, error) from None


def read_tensors(
    snapshot: Snapshot, names: Sequence[str], mover: Backend, progress: Progress | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Read tensors to host memory, in file order, as many at a time as a buffer holds.

    A tensor is valid until the next is asked for; larger ones than the buffer are read alone.
    """
    with collector_paused():
        regions = sorted(
            find_regions(snapshot, names),
            key=lambda each: snapshot.runs(each.storage, each.start, each.start),
        )
    for group in _groups(regions, buffer_nbytes(snapshot)):
        yield from _read_group(snapshot, group, mover, progress)


def _groups(regions: Iterable[Region], nbytes: int) -> Iterator[list[Region]]:
    group: list[Region] = []
    held = 0
    for region in regions:
        if group and held + region.nbytes > nbytes:
            yield group
            group, held = [], 0
        group.append(region)
        held += align(region.nbytes, STORAGE_ALIGNMENT)
    if group:
        yield group


def _read_group(
    snapshot: Snapshot, group: Sequence[Region], mover: Backend, progress: Progress | None
) -> Iterator[tuple[str, torch.Tensor]]:
    places = [storage.offset for storage in lay_out(group, ()).storages]
    memory = allocate(places[-1] + group[-1].nbytes, torch.device("cpu"))
    wanted = [
        (region.storage, region.start, memory[place : place + region.nbytes])
        for region, place in zip(group, places, strict=True)
    ]
    read_into(snapshot, wanted, mover, progress)
    viewer = Viewer(memory)
    for region, place in zip(group, places, strict=True):
        for name, spec in region.tensors.items():
            yield name, viewer.view(spec, place + spec.offset)


def buffer_nbytes(snapshot: Snapshot) -> int:
    """Say how much to read at a time: a chunk that is larger than a buffer is read once."""
    chunks = [each.chunks.chunk_nbytes for each in snapshot.digests if each]
    return max([BUFFER_NBYTES, *chunks])
