"""Where an engine keeps the blocks of each layer, and how they become bytes of a file."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    Layout,
    Snapshot,
    Storage,
    TensorSpec,
    align,
    byte_view,
    dtype_name,
)

from ...seam.plan import Extents
from .record import Group, Layer

NULL_BLOCK = 0
"""The number of the block that stands where a sliding window has passed."""
Numbers = Any
"""A 1-D array of 64-bit integers."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """The memory of one layer's cache.

    Attributes:
        layer: what a file says of it.
        memory: all bytes of its torch storage.
        first: the address of row 0.
        row_stride: bytes from a row to the next.
        pieces: the contiguous parts of a row, in file order: bytes from its first, and how many.
    """

    layer: Layer
    dtype: torch.dtype
    memory: torch.Tensor
    first: int
    row_stride: int
    pieces: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, cache: torch.Tensor, axis: int, blocks: int, *, backend: str, cache_dtype: str
    ) -> Self:
        """Describe a cache.

        Args:
            axis: the dimension of `cache` that counts rows.
            blocks: how many blocks there are, each of one row or more.

        Raises:
            ValueError: the rows are not so many to a block.
        """
        rows, strides, itemsize = cache.shape[axis], cache.stride(), cache.itemsize
        if rows % blocks:
            raise ValueError(f"{rows} rows are not dealt out evenly to {blocks} blocks")
        order = sorted(range(cache.ndim), key=lambda each: -strides[each])
        shape: list[int | None] = list(cache.shape)
        shape[axis] = None
        layer = Layer(tuple(shape), tuple(order), rows // blocks, backend, cache_dtype)
        inner = [(cache.shape[each], strides[each]) for each in order if each != axis]
        return cls(
            layer,
            cache.dtype,
            byte_view(cache, 0, cache.untyped_storage().nbytes()),
            cache.data_ptr(),
            strides[axis] * itemsize,
            tuple((start * itemsize, count * itemsize) for start, count in _pieces(inner)),
        )

    @property
    def row_nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.pieces)

    @property
    def block_nbytes(self) -> int:
        return self.row_nbytes * self.layer.rows_per_block

    def extents(self, stored: Numbers, blocks: Numbers) -> tuple[Numbers, ...]:
        """Say where blocks lie, in the file's tensor and from row 0 on.

        Args:
            stored: the places of the blocks in the file's tensor, ascending.
            blocks: their numbers in the cache.

        Returns:
            Offsets in the tensor, bytes from `first`, and sizes; what lies together in both is one
            extent.
        """
        per = self.layer.rows_per_block
        within = np.arange(per, dtype=np.int64)
        rows = (blocks[:, None] * per + within).ravel()
        places = (stored[:, None] * per + within).ravel()
        offsets, starts = places * self.row_nbytes, rows * self.row_stride
        if len(self.pieces) == 1:
            begin, nbytes = self.pieces[0]
            return _merged(offsets, starts + begin, np.full(len(rows), nbytes, np.int64))
        begins = np.array([begin for begin, _ in self.pieces], np.int64)
        sizes = np.array([nbytes for _, nbytes in self.pieces], np.int64)
        before = np.cumsum(sizes) - sizes
        return _merged(
            (offsets[:, None] + before).ravel(),
            (starts[:, None] + begins).ravel(),
            np.tile(sizes, len(rows)),
        )

    @property
    def geometry(self) -> tuple[object, ...]:
        """Say all that `extents` depends on."""
        return self.layer.rows_per_block, self.row_stride, self.pieces


def _pieces(dimensions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut a row of (size, stride) dimensions, widest first, into contiguous runs of elements."""
    count, outer = 1, list(dimensions)
    while outer and (outer[-1][1] == count or outer[-1][0] == 1):
        count *= outer.pop()[0]
    starts = [0]
    for size, stride in outer:
        starts = [start + index * stride for start in starts for index in range(size)]
    return [(start, count) for start in starts]


def _merged(offsets: Numbers, starts: Numbers, sizes: Numbers) -> tuple[Numbers, ...]:
    """Join neighbours that follow each other in the file and in memory."""
    if not len(offsets):
        return offsets, starts, sizes
    apart = (offsets[1:] != offsets[:-1] + sizes[:-1]) | (starts[1:] != starts[:-1] + sizes[:-1])
    first = np.concatenate([[0], np.flatnonzero(apart) + 1])
    return offsets[first], starts[first], np.add.reduceat(sizes, first)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of one group: their places in the file, ascending, and their numbers in the cache."""

    stored: Sequence[int]
    numbers: Sequence[int]


def extents_of(
    caches: Mapping[str, LayerCache],
    groups: Sequence[tuple[Sequence[str], Blocks]],
    starts: Mapping[str, int],
) -> Extents:
    """Make extents of blocks of several groups, in file order.

    Args:
        groups: for each the layers that are stored, and the blocks.
        starts: where the tensor of each layer begins in the file.
    """
    columns: list[tuple[int, tuple[Numbers, ...]]] = []
    used: list[LayerCache] = []
    for layers, blocks in groups:
        stored = np.asarray(blocks.stored, np.int64)
        numbers = np.asarray(blocks.numbers, np.int64)
        # Most layers of a group are laid out alike.
        alike: dict[tuple[object, ...], tuple[Numbers, ...]] = {}
        for name in layers:
            cache = caches[name]
            if cache.geometry not in alike:
                alike[cache.geometry] = cache.extents(stored, numbers)
            offsets, begins, sizes = alike[cache.geometry]
            columns.append((starts[name], (offsets + starts[name], begins + cache.first, sizes)))
            used.append(cache)
    columns.sort(key=lambda each: each[0])
    offsets, addresses, sizes = (
        _column([found[which] for _, found in columns]) for which in range(3)
    )
    owners = {cache.memory.data_ptr(): cache.memory for cache in used}
    device = used[0].memory.device if used else torch.device("cpu")
    return Extents(offsets, addresses, sizes, owners=list(owners.values()), device=device)


def _column(parts: Sequence[Numbers]) -> array[int]:
    made = array("q")
    if parts:
        made.frombytes(np.concatenate(parts).astype(np.int64).tobytes())
    return made


def file_layout(caches: Mapping[str, LayerCache], groups: Sequence[Group]) -> Layout:
    """Lay out a file: a storage for each layer, in the order of groups and layers."""
    storages: list[Storage] = []
    tensors: dict[str, TensorSpec] = {}
    end = 0
    for group in groups:
        for name in group.layers:
            cache = caches[name]
            offset = align(end, STORAGE_ALIGNMENT)
            nbytes = group.blocks * cache.block_nbytes
            shape = (group.blocks * cache.layer.rows_per_block, *cache.layer.row_shape)
            tensors[name] = TensorSpec(
                dtype_name(cache.dtype), shape, _contiguous(shape), len(storages), 0
            )
            storages.append(Storage(offset, nbytes))
            end = offset + nbytes
    return Layout(tuple(storages), (), tensors)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def starts_in(snapshot: Snapshot) -> dict[str, int]:
    """Find where the tensor of each layer begins in a file."""
    return {
        name: snapshot.runs(spec.storage, spec.offset, spec.offset + 1)[0].offset
        for name, spec in snapshot.tensors.items()
    }
