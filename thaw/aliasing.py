"""Which tensors of a snapshot share memory, compared with those of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from thaw_format import Snapshot, merge_overlapping

from .reports import TensorDifference

_LISTED = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies among those that it shares bytes with, itself included.

    Attributes:
        names: all of them, sorted.
        offset: its first byte, from the first of all.
    """

    names: tuple[str, ...]
    offset: int

    def others(self, name: str) -> list[str]:
        return [each for each in self.names if each != name]


def aliasing_differences(
    names: Sequence[str], a: Snapshot, b: Snapshot
) -> Iterator[TensorDifference]:
    """Say of which of the named tensors, that both have, other tensors share bytes."""
    there, here = _places(names, a), _places(names, b)
    for name in names:
        one, two = there.get(name), here.get(name)
        if one is not None and two is not None and one != two:
            where = one.names == two.names
            yield TensorDifference(
                name, "aliasing", _said(name, one, where), _said(name, two, where)
            )


def _places(names: Sequence[str], snapshot: Snapshot) -> Mapping[str, _Place]:
    spans: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name in names:
        spec = snapshot.tensors[name]
        if spec.extent:
            spans[spec.storage].append((spec.offset, spec.offset + spec.extent, name))
    return {
        name: _Place(tuple(sorted(each for _, _, each in group)), start - first)
        for found in spans.values()
        for first, _, group in merge_overlapping(found)
        for start, _, name in group
    }


def _said(name: str, place: _Place, where: bool) -> str:
    others = place.others(name)
    if not others:
        return "shares memory with none"
    listed = ", ".join(map(repr, others[:_LISTED])) + (" ..." if len(others) > _LISTED else "")
    return f"shares memory with {listed}" + (f", from byte {place.offset}" if where else "")
