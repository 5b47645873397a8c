"""The parts of a session, as its file says them."""

from __future__ import annotations

from dataclasses import dataclass

FULL, SLIDING_WINDOW, STATE = "full", "sliding-window", "state"
"""Kinds of groups. A block of a state holds what a layer has made of all tokens up to its last."""


@dataclass(frozen=True, slots=True)
class Layer:
    """How the engine lays out one layer's cache: compared whole, and never converted.

    Attributes:
        shape: of the layer's cache as its attention backend sees it; None for the rows.
        order: the dimensions of `shape` by their strides, the widest first.
        rows_per_block: how many rows, which is what kernels call a block, are a block of the cache.
        backend: the name of the attention backend.
        cache_dtype: what the engine calls the elements; the tensor of the layer has their width.
    """

    shape: tuple[int | None, ...]
    order: tuple[int, ...]
    rows_per_block: int
    backend: str
    cache_dtype: str

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The dimensions of a row in the file, the widest stride first."""
        return tuple(size for axis in self.order if (size := self.shape[axis]) is not None)


@dataclass(frozen=True, slots=True)
class Group:
    """Layers whose blocks are dealt out together.

    Attributes:
        kind: "full", "sliding-window" or "state".
        block_tokens: how many tokens' keys and values a block holds.
        window: how many tokens back a sliding window reaches; None for the other kinds.
        first_block: the first block that is stored, counted from the session's start; all from
            there to its end are.
        blocks: how many are stored.
        layers: names, each that of a tensor too; of a state, one for each of its tensors.
    """

    kind: str
    block_tokens: int
    window: int | None
    first_block: int
    blocks: int
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hashes:
    """The chain of hashes by which the engine that froze a session knew its blocks.

    Attributes:
        algorithm: as vLLM names it.
        seed: what stood for the parent of the first block.
        block_tokens: how many tokens a hash covers beyond its parent.
        values: one after the other.
    """

    algorithm: str
    seed: bytes
    block_tokens: int
    values: bytes


@dataclass(frozen=True, slots=True)
class Media:
    """An image or the like whose placeholders are among the tokens."""

    identifier: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its name, and a digest of what it is."""

    name: str
    sha256: str
