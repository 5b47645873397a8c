"""What a snapshot holds, whatever file format it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from .dtypes import ITEMSIZES, NAMES, TORCH_DTYPES
from .source import Source
from .strict_json import JSON

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Storage:
    """A contiguous byte range of a source that tensors view; `offset` is absolute in the source."""

    offset: int
    nbytes: int
    source: int = 0


class Run(NamedTuple):
    """A byte range of a source; `offset` is absolute in it."""

    source: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A view of a storage: `stride` in elements, `offset` in bytes from the storage's start.

    Attributes:
        dtype_name: the element type as the specification names it (section 9), or as torch does
            where the specification lacks it; made from one of torch's, it is its name.
    """

    dtype_name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: int
    offset: int

    def __post_init__(self) -> None:
        given: str | torch.dtype = self.dtype_name
        if not isinstance(given, str):
            object.__setattr__(self, "dtype_name", NAMES[given])

    @property
    def dtype(self) -> torch.dtype:
        """Torch's element type; torch is imported for it."""
        return TORCH_DTYPES[self.dtype_name]

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return ITEMSIZES.get(self.dtype_name) or self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The bytes of all elements, counting shared ones again."""
        count = self.itemsize
        for size in self.shape:
            count *= size
        return count

    @property
    def extent(self) -> int:
        """The bytes from the first element to the end of the last (specification, section 9)."""
        count = 1
        for size, step in zip(self.shape, self.stride, strict=True):
            if size == 0:
                return 0
            count += (size - 1) * step
        return count * self.itemsize

    @property
    def layout(self) -> tuple[int, int, str, tuple[int, ...], tuple[int, ...]]:
        """A key that two names share exactly if they are tied."""
        return self.storage, self.offset, self.dtype_name, self.shape, self.stride


@dataclass(frozen=True, slots=True)
class RankOf:
    """A rank among `size` ranks."""

    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's place among the shards of its snapshot, and in each kind of parallelism."""

    rank: int = 0
    size: int = 1
    tp: RankOf | None = None
    pp: RankOf | None = None
    ep: RankOf | None = None


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a byte range of a file is cut into chunks: the last one may be short."""

    offset: int
    nbytes: int
    chunk_nbytes: int

    def __len__(self) -> int:
        return -(-self.nbytes // self.chunk_nbytes)

    def span(self, index: int) -> tuple[int, int]:
        """Return the first byte and the end of a chunk, as offsets in the file."""
        start = self.offset + index * self.chunk_nbytes
        return start, min(start + self.chunk_nbytes, self.offset + self.nbytes)


@dataclass(frozen=True, slots=True)
class Digests:
    """The CRC32C of each chunk."""

    chunks: Chunks
    values: Sequence[int] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The description of a snapshot whose bytes still lie in its sources.

    Attributes:
        format: the name of the file format.
        digests: for each source its digests, or None where the format has none.
    """

    path: Path
    format: str
    sources: tuple[Source, ...]
    storages: tuple[Storage, ...]
    tensors: Mapping[str, TensorSpec]
    digests: tuple[Digests | None, ...]
    kind: str = "weights"
    shard: Shard = Shard()
    snapshot_id: str | None = None
    producer: Mapping[str, JSON] = field(default_factory=dict)
    metadata: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes of all storages."""
        return sum(storage.nbytes for storage in self.storages)

    @property
    def file_nbytes(self) -> int:
        return sum(source.nbytes for source in self.sources)

    @property
    def payload_nbytes(self) -> int | None:
        """The bytes of memory that hold all tensors as the file does; None where no file does."""
        return None

    def runs(self, storage: int, start: int, end: int) -> tuple[Run, ...]:
        """Find bytes of a storage, from `start` to `end` in it, in the sources: in their order.

        It is asked wherever bytes of a storage are read, so that a snapshot whose storages lie in
        several places has nothing else to say where.
        """
        whole = self.storages[storage]
        return (Run(whole.source, whole.offset + start, end - start),)

    def tensors_at(self, source: int, start: int, end: int) -> list[str]:
        """Name the tensors with bytes in a range of a source."""
        return [
            name
            for name, spec in self.tensors.items()
            if (storage := self.storages[spec.storage]).source == source
            and storage.offset + spec.offset < end
            and storage.offset + spec.offset + spec.extent > start
        ]

    def close(self) -> None:
        """Close the sources."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __fspath__(self) -> str:
        return os.fspath(self.path)
