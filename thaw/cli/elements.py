"""The elements of a tensor in index order, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from thaw_format import Snapshot, TensorSpec, tensor_view
from thaw_format.checksum import host_buffer

from thaw.tensors.elements import bytes_of
from thaw.tensors.strides import normal

PIECE_NBYTES = 4 << 20
WINDOW_NBYTES = 64 << 20


def element_pieces(snapshot: Snapshot, spec: TensorSpec) -> Iterator[torch.Tensor]:
    """Yield a tensor's elements, in index order, as pieces of 1-D uint8 memory.

    Memory is bounded by `WINDOW_NBYTES`, but for a large tensor whose rows interleave, such as a
    transposed one: its extent is then held whole.
    """
    yield from _walk(snapshot, spec)


def _walk(snapshot: Snapshot, view: TensorSpec) -> Iterator[torch.Tensor]:
    view = _squeezed(view)
    if not view.nbytes:
        return
    if _is_dense(view):
        for start in range(0, view.nbytes, PIECE_NBYTES):
            yield _read(
                snapshot, view.storage, view.offset + start, min(PIECE_NBYTES, view.nbytes - start)
            )
    elif view.extent <= WINDOW_NBYTES or _rows_interleave(view):
        memory = _read(snapshot, view.storage, view.offset, view.extent)
        yield from _materialize(memory, replace(view, offset=0))
    else:
        for part in _parts(view, _rows_in_window(view)):
            yield from _walk(snapshot, part)


def _materialize(memory: torch.Tensor, view: TensorSpec) -> Iterator[torch.Tensor]:
    view = _squeezed(view)
    if view.nbytes <= PIECE_NBYTES:
        yield bytes_of(tensor_view(memory, view, view.offset))
        return
    for part in _parts(view, max(1, PIECE_NBYTES // _row(view).nbytes)):
        yield from _materialize(memory, part)


def _read(snapshot: Snapshot, storage: int, start: int, nbytes: int) -> torch.Tensor:
    memory, at = torch.empty(nbytes, dtype=torch.uint8, device="cpu"), 0
    for source, offset, length in snapshot.runs(storage, start, start + nbytes):
        snapshot.sources[source].read_into(offset, [host_buffer(memory[at : at + length])])
        at += length
    return memory


def _squeezed(view: TensorSpec) -> TensorSpec:
    """Drop dimensions of size 1: their strides mean nothing."""
    kept = normal(view)
    return replace(view, shape=tuple(n for n, _ in kept), stride=tuple(step for _, step in kept))


def _is_dense(view: TensorSpec) -> bool:
    expected = 1
    for size, step in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if step != expected:
            return False
        expected *= size
    return True


def _row(view: TensorSpec) -> TensorSpec:
    return replace(view, shape=view.shape[1:], stride=view.stride[1:])


def _rows_interleave(view: TensorSpec) -> bool:
    return 0 < view.stride[0] * view.itemsize < _row(view).extent


def _rows_in_window(view: TensorSpec) -> int:
    step = view.stride[0] * view.itemsize
    if not step:
        return 1
    return 1 + max(0, WINDOW_NBYTES - _row(view).extent) // step


def _parts(view: TensorSpec, rows: int) -> Iterator[TensorSpec]:
    step = view.stride[0] * view.itemsize
    for first in range(0, view.shape[0], rows):
        shape = (min(rows, view.shape[0] - first), *view.shape[1:])
        yield replace(view, shape=shape, offset=view.offset + first * step)
