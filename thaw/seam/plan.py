"""What to move: extents of a file, each with its memory, and plans of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from thaw_format import Chunks, Digests, Source


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


class TensorExtent(Extent):
    """An extent that is all of a contiguous tensor, viewed as bytes only for who asks.

    A view takes longer to make than a small tensor takes to be read.

    Attributes:
        tensor: of any dtype and shape, and not empty.
    """

    __slots__ = ("address", "nbytes", "tensor")

    tensor: torch.Tensor
    address: int
    nbytes: int

    @property
    def memory(self) -> torch.Tensor:
        flat = self.tensor if self.tensor.ndim == 1 else self.tensor.view(-1)
        return flat.view(torch.uint8)

    @property
    def device(self) -> torch.device:
        return self.tensor.device


@dataclass(frozen=True, slots=True, eq=False)
class ReadPlan:
    """What to read from one source.

    Attributes:
        extents: in file order, disjoint, all on one device, none empty.
        digests: the digests that cover the extents, or None where the format has none. Chunks
            that no extent touches need not be read; the others are read and checked whole.
    """

    extents: tuple[Extent, ...]
    digests: Digests | None = None

    @property
    def nbytes(self) -> int:
        return sum(extent.nbytes for extent in self.extents)


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

    extents: tuple[Extent, ...]
    chunks: Chunks

    @property
    def nbytes(self) -> int:
        return sum(extent.nbytes for extent in self.extents)
