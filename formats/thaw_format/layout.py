"""From live tensors to storages: which memory a snapshot holds, and where in the payload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from .dtypes import NAMES, dtype_name
from .snapshot import Storage, TensorSpec
from .superblock import STORAGE_ALIGNMENT, align


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Tensors placed in a payload.

    Attributes:
        storages: their places in the payload, in the order of their offsets.
        memory: for each storage its bytes, a contiguous 1-D uint8 view of the live tensors.
        tensors: for each name its view of a storage.
    """

    storages: tuple[Storage, ...]
    memory: tuple[torch.Tensor, ...]
    tensors: Mapping[str, TensorSpec]

    @property
    def payload_nbytes(self) -> int:
        return self.storages[-1].offset + self.storages[-1].nbytes if self.storages else 0


class _Span(NamedTuple):
    start: int
    end: int
    order: int
    name: str


_S = TypeVar("_S", bound=tuple[int, int, *tuple[Any, ...]])


class _Region(NamedTuple):
    order: int
    start: int
    end: int
    spans: list[_Span]


def layout_tensors(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """Place tensors in a payload: memory that overlaps becomes one storage, other memory its own.

    Args:
        tensors: plain strided tensors on any device, by name; tied ones and views stay so.

    Raises:
        TypeError: a tensor is sparse, quantized, without memory, or of an unknown dtype.
    """
    plain = {name: _plain(name, tensor) for name, tensor in tensors.items()}
    storages: list[Storage] = []
    memory: list[torch.Tensor] = []
    specs: dict[str, TensorSpec] = {}
    end = 0
    for region in _regions(plain):
        offset, nbytes = align(end, STORAGE_ALIGNMENT), region.end - region.start
        for span in region.spans:
            specs[span.name] = _spec(plain[span.name], len(storages), span.start - region.start)
        storages.append(Storage(offset, nbytes))
        # Torch can have storages of several sizes for memory that is not its own.
        widest = max(
            (plain[span.name] for span in region.spans),
            key=lambda tensor: int(tensor.untyped_storage().nbytes()),
        )
        memory.append(byte_view(widest, region.start, nbytes))
        end = offset + nbytes
    return Layout(tuple(storages), tuple(memory), {name: specs[name] for name in plain})


def byte_view(tensor: torch.Tensor, start: int, nbytes: int) -> torch.Tensor:
    """View bytes of a tensor's torch storage, from its start, as 1-D uint8."""
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), start, (nbytes,), (1,))


class Viewer:
    """Views 1-D uint8 memory as the tensors that specs describe."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._start = int(memory.storage_offset())
        self._bases: dict[str, torch.Tensor] = {}

    def view(self, spec: TensorSpec, start: int) -> torch.Tensor:
        """View the memory from byte `start`.

        Raises:
            TypeError: torch cannot hold the shape.
        """
        base = self._bases.get(spec.dtype_name)
        if base is None:
            base = self._bases[spec.dtype_name] = self._empty(spec.dtype)
        first = (self._start + start) // base.itemsize
        try:
            # Its data alone, so that tensors have no base and no version in common.
            return base.as_strided(spec.shape, spec.stride, first).data
        except RuntimeError as error:
            # The format allows empty tensors with sizes whose product torch cannot hold.
            raise TypeError(f"torch has no tensor of shape {list(spec.shape)}: {error}") from None

    def _empty(self, dtype: torch.dtype) -> torch.Tensor:
        empty = torch.empty(0, dtype=dtype, device=self._memory.device)
        return empty.set_(self._memory.untyped_storage(), 0, (0,), (1,))


def tensor_view(memory: torch.Tensor, spec: TensorSpec, start: int) -> torch.Tensor:
    """View 1-D uint8 memory, from byte `start`, as the tensor that a spec describes.

    Raises:
        TypeError: torch cannot hold the shape.
    """
    return Viewer(memory).view(spec, start)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as integers of its width: float copies may change bits, integer ones do not."""
    if tensor.dtype.itemsize == 16:
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def is_strided(tensor: torch.Tensor) -> bool:
    """Say whether a tensor's elements lie in memory at strides, each as it is."""
    strange = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return not strange and tensor.layout == torch.strided


def has_memory(tensor: torch.Tensor) -> bool:
    """Say whether the storage of a plain strided tensor reaches to its last element."""
    extent = tensor.nbytes if tensor.is_contiguous() else extent_nbytes(tensor)
    if not extent:
        return True
    start = int(tensor.storage_offset()) * tensor.dtype.itemsize
    return bool(start + extent <= tensor.untyped_storage().nbytes())


def extent_nbytes(tensor: torch.Tensor) -> int:
    """Count the bytes from a tensor's first element to the end of its last."""
    return _spec(tensor, 0, 0).extent


def _spec(tensor: torch.Tensor, storage: int, offset: int) -> TensorSpec:
    name = NAMES[tensor.dtype]
    return TensorSpec(name, tuple(tensor.shape), tuple(tensor.stride()), storage, offset)


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not is_strided(tensor):
        what = "a meta tensor" if tensor.is_meta else "not a plain strided tensor"
        raise TypeError(f"tensor {name!r} is {what} and has no bytes to store")
    try:
        dtype_name(tensor.dtype)
    except TypeError as error:
        raise TypeError(f"tensor {name!r}: {error}") from None
    if not has_memory(tensor):
        raise TypeError(f"tensor {name!r} has no memory for its elements: its storage was freed")
    plain = tensor.detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return plain


def _regions(tensors: Mapping[str, torch.Tensor]) -> list[_Region]:
    groups: dict[tuple[torch.device, int, int], list[_Span]] = {}
    for order, (name, tensor) in enumerate(tensors.items()):
        start = int(tensor.storage_offset()) * tensor.dtype.itemsize
        nbytes = extent_nbytes(tensor)
        address = tensor.untyped_storage().data_ptr()
        # Tensors without bytes share memory with nothing: each is its own group.
        key = (tensor.device, address, -1) if nbytes else (tensor.device, 0, order)
        groups.setdefault(key, []).append(_Span(start, start + nbytes, order, name))
    regions = [region for spans in groups.values() for region in _merge(spans, tensors)]
    return sorted(regions, key=lambda region: region.order)


def _merge(spans: list[_Span], tensors: Mapping[str, torch.Tensor]) -> list[_Region]:
    return [
        _aligned(_Region(min(p.order for p in group), start, end, group), tensors)
        for start, end, group in merge_overlapping(spans)
    ]


def merge_overlapping(spans: Iterable[_S]) -> list[tuple[int, int, list[_S]]]:
    """Group spans, tuples of a start, an end and more, that share bytes directly or in a chain.

    Returns:
        For each group its start, its end and its spans, in the order of starts.
    """
    groups: list[tuple[int, int, list[_S]]] = []
    for span in sorted(spans):
        start, end = span[0], span[1]
        if groups and start < groups[-1][1]:
            first, last, members = groups[-1]
            members.append(span)
            groups[-1] = (first, max(end, last), members)
        else:
            groups.append((start, end, [span]))
    return groups


def _aligned(region: _Region, tensors: Mapping[str, torch.Tensor]) -> _Region:
    # TEN-5: views of several dtypes in one storage need a start that suits the widest.
    widest = max(tensors[span.name].dtype.itemsize for span in region.spans)
    return region._replace(start=region.start // widest * widest)
