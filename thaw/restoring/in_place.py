"""Targets whose bytes lie as in the file and that share them with no other: filled as they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

import torch
from thaw_format import Snapshot, TensorSpec, extent_nbytes

from ..seam.plan import Extent, TensorExtent


def plan_singles(
    snapshot: Snapshot, targets: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int, Extent]]:
    """Find the plain targets, and for each its source and its extent; others are left out."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    there, here = [], []
    plain: dict[object, int] = {}
    for name, target in targets.items():
        spec = snapshot.tensors[name]
        storage = snapshot.storages[spec.storage]
        offset, address = storage.offset + spec.offset, target.data_ptr()
        form = spec.dtype, spec.shape, spec.stride, target.stride()
        nbytes = plain.get(form, -1)
        if nbytes < 0:
            nbytes = plain[form] = target.nbytes if _is_plain(spec, target) else 0
        room = nbytes
        if nbytes:
            names.append(name)
            places.append((offset, address, nbytes))
        else:
            nbytes, room = spec.extent, extent_nbytes(target)
        there.append((storage.source, offset, offset + nbytes, name))
        here.append((0, address, address + room, name))
    crowded = _crowded(there) | _crowded(here)
    sources = (snapshot.storages[snapshot.tensors[name].storage].source for name in names)
    tensors = map(targets.__getitem__, names)
    found = zip(names, sources, _extents(places, tensors), strict=True)
    return {name: (source, extent) for name, source, extent in found if name not in crowded}


def _extents(
    places: Collection[tuple[int, int, int]], tensors: Iterable[torch.Tensor]
) -> list[TensorExtent]:
    """Make extents from their offsets, addresses and sizes, a column at a time."""
    if not places:
        return []
    extents = [object.__new__(TensorExtent) for _ in places]
    members = ("offset", "address", "nbytes", "tensor")
    for member, column in zip(members, (*zip(*places, strict=True), tensors), strict=True):
        deque(map(getattr(TensorExtent, member).__set__, extents, column), maxlen=0)
    return extents


def _is_plain(spec: TensorSpec, target: torch.Tensor) -> bool:
    stride = target.stride()
    # The last condition leaves out single elements with a step that torch does not view as bytes.
    return spec.stride == stride and target.is_contiguous() and (not stride or stride[-1] == 1)


def _crowded(spans: Iterable[tuple[int, int, int, str]]) -> set[str]:
    """Name those of (place, start, end, name) spans that share bytes with others."""
    crowded: set[str] = set()
    last, reach, owner = -1, 0, ""
    for place, start, end, name in sorted(spans):
        if place == last and start < reach:
            crowded.update((owner, name))
        if place != last or end > reach:
            last, reach, owner = place, end, name
    return crowded
