"""Targets whose bytes lie as in the file and that share them with no other: filled as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from thaw_format import Snapshot, TensorSpec, extent_nbytes

from .backend import Extent


def plan_singles(
    snapshot: Snapshot, targets: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int, Extent]]:
    """Find the plain targets, and for each its source and its extent; others are left out."""
    places: dict[str, tuple[int, int]] = {}
    there, here = [], []
    for name, target in targets.items():
        spec = snapshot.tensors[name]
        storage = snapshot.storages[spec.storage]
        offset, address = storage.offset + spec.offset, target.data_ptr()
        nbytes = room = target.nbytes if _is_plain(spec, target) else 0
        if nbytes:
            places[name] = storage.source, offset
        else:
            nbytes, room = spec.extent, extent_nbytes(target)
        there.append((storage.source, offset, offset + nbytes, name))
        here.append((0, address, address + room, name))
    crowded = _crowded(there) | _crowded(here)
    # Views that need no gradients are made in less time where none are recorded.
    with torch.no_grad():
        return {
            name: (source, Extent(offset, _bytes(targets[name])))
            for name, (source, offset) in places.items()
            if name not in crowded
        }


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


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor if tensor.ndim == 1 else tensor.view(-1)
    return flat.view(torch.uint8)
