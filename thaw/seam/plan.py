"""What to move: extents of a file, each with its memory, and plans of them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import Self, TypeAlias, overload

import torch
from thaw_format import Chunks, Digests, Source

_HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """A byte range of a file and the memory that it belongs to.

    Attributes:
        offset: where the range begins in the file.
        memory: a contiguous 1-D uint8 tensor on any device; its length is that of the range.
    """

    offset: int
    memory: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.memory.numel()

    @property
    def end(self) -> int:
        return self.offset + self.nbytes

    @property
    def address(self) -> int:
        """Where the memory begins."""
        return self.memory.data_ptr()

    @property
    def device(self) -> torch.device:
        return self.memory.device


class Extents(Sequence[Extent]):
    """Extents as columns of numbers, and one by one for who goes through them.

    Ten thousand blocks of memory are handed over in columns as quickly as ten.

    Attributes:
        offsets: where each begins in the file, in ascending order; like the other columns of
            64-bit integers, with the buffer protocol.
        addresses: where the memory of each begins.
        sizes: the bytes of each; none is empty.
        device: that of the memory. Where some lie on the host beside a device, that device.
        on_host: for each whether it lies on the host beside that; empty if none does.
    """

    __slots__ = ("_owners", "_sorted", "addresses", "device", "offsets", "on_host", "sizes")

    def __init__(
        self,
        offsets: Iterable[int],
        addresses: Iterable[int],
        sizes: Iterable[int],
        *,
        owners: Sequence[torch.Tensor],
        device: torch.device,
        on_host: bytes = b"",
    ) -> None:
        """Take columns.

        Args:
            owners: contiguous tensors in which the memory of all lies, kept alive with them.
        """
        self.offsets, self.addresses = array("q", offsets), array("q", addresses)
        self.sizes, self.device, self.on_host = array("q", sizes), device, on_host
        self._owners = owners
        self._sorted: tuple[list[int], list[torch.Tensor]] | None = None

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Self:
        """Put extents into columns, in file order."""
        listed = sorted(extents, key=attrgetter("offset"))
        return cls.over([each.offset for each in listed], [each.memory for each in listed])

    @classmethod
    def over(cls, offsets: Sequence[int], tensors: Sequence[torch.Tensor]) -> Self:
        """Make an extent of all of each tensor; they are contiguous, of any dtype, none empty."""
        devices = [tensor.device for tensor in tensors]
        known = set(devices)
        apart = known - {_HOST}
        return cls(
            offsets,
            [tensor.data_ptr() for tensor in tensors],
            [tensor.nbytes for tensor in tensors],
            owners=tensors,
            device=next(iter(apart), _HOST),
            on_host=bytes(each == _HOST for each in devices) if apart and _HOST in known else b"",
        )

    @classmethod
    def within(cls, memory: torch.Tensor, rows: Iterable[tuple[int, int, int]]) -> Self:
        """Make extents of ranges of memory: (offset in the file, first byte, bytes) of each."""
        listed, start = list(rows), memory.data_ptr()
        return cls(
            [offset for offset, _, _ in listed],
            [start + first for _, first, _ in listed],
            [nbytes for _, _, nbytes in listed],
            owners=[memory],
            device=memory.device,
        )

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Extent | Self:
        if isinstance(index, slice):
            columns = self.offsets[index], self.addresses[index], self.sizes[index]
            return type(self)(
                *columns, owners=self._owners, device=self.device, on_host=self.on_host[index]
            )
        return Extent(self.offsets[index], self._memory(self.addresses[index], self.sizes[index]))

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)

    @property
    def span(self) -> tuple[int, int]:
        """Where the first begins in the file and the last ends."""
        return (self.offsets[0], self.offsets[-1] + self.sizes[-1]) if self.offsets else (0, 0)

    def apart(self) -> tuple[Self, Self]:
        """Part those on the device from those that lie on the host beside it."""
        if not self.on_host:
            return self, type(self)((), (), (), owners=(), device=_HOST)
        there = bytes(not each for each in self.on_host)
        return self._chosen(there, self.device), self._chosen(self.on_host, _HOST)

    def _chosen(self, flags: bytes, device: torch.device) -> Self:
        columns = (compress(each, flags) for each in (self.offsets, self.addresses, self.sizes))
        return type(self)(*columns, owners=self._owners, device=device)

    def _memory(self, address: int, nbytes: int) -> torch.Tensor:
        """View bytes of the owner that has them; a view takes longer than to read a few bytes."""
        if self._sorted is None:
            owners = sorted(self._owners, key=lambda each: (each.data_ptr(), each.nbytes))
            self._sorted = [each.data_ptr() for each in owners], owners
        starts, owners = self._sorted
        at = bisect_right(starts, address) - 1
        flat = owners[at] if owners[at].ndim == 1 else owners[at].view(-1)
        first = address - starts[at]
        memory = flat.view(torch.uint8)[first : first + nbytes]
        assert len(memory) == nbytes
        return memory


@dataclass(frozen=True, slots=True, eq=False)
class ReadPlan:
    """What to read from one source.

    Attributes:
        extents: in file order, disjoint, all on one device, none empty.
        digests: the digests that cover the extents, or None where the format has none. Chunks
            that no extent touches need not be read; the others are read and checked whole.
    """

    extents: Extents
    digests: Digests | None = None

    @property
    def nbytes(self) -> int:
        return self.extents.nbytes


Read: TypeAlias = tuple[Source, ReadPlan]
"""A source and what to read from it."""


@dataclass(frozen=True, slots=True, eq=False)
class WritePlan:
    """What to write to one target.

    Attributes:
        extents: in file order, disjoint, within `chunks`, none empty; on one device, on the host,
            or some here and some there.
        chunks: the payload whose digests are wanted. Bytes of it in no extent are zero.
    """

    extents: Extents
    chunks: Chunks

    @property
    def nbytes(self) -> int:
        return self.extents.nbytes
