"""Checking a manifest's storages and tensors all together, a column for each member.

What is right can be shown so in few steps; what is wrong, and where, only entry by entry. So these
functions return None where they are not sure, and leave it to others to look closely.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import chain, repeat
from operator import add, itemgetter, le, mod
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .dtypes import ITEMSIZES
from .limits import MAX_DIMENSIONS, MAX_EXTENT, MAX_NAME_NBYTES
from .snapshot import Storage, TensorSpec
from .superblock import STORAGE_ALIGNMENT

_STORAGE_MEMBERS = "offset", "nbytes"
_TENSOR_MEMBERS = "dtype", "shape", "stride", "storage", "offset"
_MAX_CODE_POINT_NBYTES = 4

_Key: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]
_T = TypeVar("_T")


class _Form(NamedTuple):
    """What tensors of a dtype, a shape and a stride have in common."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int
    extent: int


def storages_of(
    raw: Collection[Any], payload_nbytes: int, origin: int
) -> tuple[Storage, ...] | None:
    """Make the storages, if all of them are right."""
    columns = _columns(_STORAGE_MEMBERS, raw)
    if columns is None or not all(_are(int, column) for column in columns):
        return None
    offsets, sizes = columns
    ends = list(map(add, offsets, sizes))
    if min(offsets) < 0 or min(sizes) < 0 or ends[-1] > payload_nbytes:
        return None
    if any(map(mod, offsets, repeat(STORAGE_ALIGNMENT))) or not all(map(le, ends, offsets[1:])):
        return None
    places = map(add, offsets, repeat(origin))
    return tuple(_values(Storage, len(raw), places, sizes, repeat(0)))


def tensors_of(raw: Mapping[str, Any], storages: Sequence[Storage]) -> dict[str, TensorSpec] | None:
    """Make the tensors, if all of them are right."""
    columns = _columns(_TENSOR_MEMBERS, raw.values())
    if columns is None or not _are_names(raw):
        return None
    words, shapes, strides, indices, offsets = columns
    if not (_are(str, words) and _are_integers(shapes) and _are_integers(strides)):
        return None
    if not (_are(int, indices) and 0 <= min(indices) <= max(indices) < len(storages)):
        return None
    keys = list(zip(words, map(tuple, shapes), map(tuple, strides), strict=True))
    forms = _forms(set(keys))
    if forms is None or not _are(int, offsets) or min(offsets) < 0:
        return None
    dtypes, shared, steps, itemsizes, extents = zip(*map(forms.__getitem__, keys), strict=True)
    if any(map(mod, offsets, itemsizes)):
        return None
    nbytes = [storage.nbytes for storage in storages]
    if not all(map(le, map(add, offsets, extents), map(nbytes.__getitem__, indices))):
        return None
    specs = _values(TensorSpec, len(raw), dtypes, shared, steps, indices, offsets)
    return dict(zip(raw, specs, strict=True))


def _columns(members: Iterable[str], raw: Collection[Any]) -> list[list[Any]] | None:
    if not raw or not _are(dict, raw):
        return None
    try:
        return [list(map(itemgetter(member), raw)) for member in members]
    except KeyError:
        return None


def _are(kind: type, values: Iterable[object]) -> bool:
    return set(map(type, values)) <= {kind}


def _are_integers(rows: Iterable[Any]) -> bool:
    return _are(list, rows) and _are(int, chain.from_iterable(rows))


def _are_names(names: Iterable[str]) -> bool:
    longest = _MAX_CODE_POINT_NBYTES * max(map(len, names))
    return all(names) and longest <= MAX_NAME_NBYTES and "\0" not in "".join(names)


def _forms(keys: Iterable[_Key]) -> dict[_Key, _Form] | None:
    forms = {}
    for key in keys:
        word, shape, stride = key
        itemsize = ITEMSIZES.get(word)
        if itemsize is None or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
            return None
        if min(shape + stride, default=0) < 0:
            return None
        spec = TensorSpec(word, shape, stride, 0, 0)
        if max(spec.extent, spec.nbytes) > MAX_EXTENT:
            return None
        forms[key] = _Form(word, shape, stride, itemsize, spec.extent)
    return forms


def _values(cls: type[_T], count: int, *columns: Iterable[object]) -> list[_T]:
    """Make values of a frozen slotted dataclass from a column for each field."""
    values = [object.__new__(cls) for _ in range(count)]
    for field, column in zip(fields(cls), columns, strict=True):  # type: ignore[arg-type]
        # What its own __init__ does, but that looks up each field of each value by name.
        deque(map(getattr(cls, field.name).__set__, values, column), maxlen=0)
    return values
