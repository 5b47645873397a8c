"""Targets whose bytes lie as in the file and that share them with no other: filled as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from thaw_format import Snapshot, TensorSpec, extent_nbytes


def find_singles(
    snapshot: Snapshot, targets: Mapping[str, torch.Tensor]
) -> dict[str, tuple[int, int]]:
    """Find the plain targets, and for each its storage and where it begins there."""
    found: dict[str, tuple[int, int]] = {}
    there, here = [], []
    plain: dict[object, int] = {}
    for name, target in targets.items():
        spec = snapshot.tensors[name]
        address, offset = target.data_ptr(), spec.offset
        form = spec.dtype, spec.shape, spec.stride, target.stride()
        nbytes = plain.get(form, -1)
        if nbytes < 0:
            nbytes = plain[form] = target.nbytes if _is_plain(spec, target) else 0
        room = nbytes
        if nbytes:
            found[name] = spec.storage, offset
        else:
            nbytes, room = spec.extent, extent_nbytes(target)
        there.append((spec.storage, offset, offset + nbytes, name))
        here.append((0, address, address + room, name))
    for name in _crowded(there) | _crowded(here):
        found.pop(name, None)
    return found


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
