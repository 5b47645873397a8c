"""What a file says of its session, as spec/sessions-1.0.md has it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from thaw_format import JSON, FormatError, ManifestError, Snapshot

KIND = "kv"
KEY = "session"
MAJOR = 1
_SHA256 = re.compile("[0-9a-f]{64}")
_BYTES = re.compile("(?:[0-9a-f]{2})+")
_Value = TypeVar("_Value")


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
        kind: "full" or "sliding-window".
        block_tokens: how many tokens' keys and values a block holds.
        window: how many tokens back a sliding window reaches; None for full attention.
        first_block: the first block that is stored, counted from the session's start; all from
            there to its end are.
        blocks: how many are stored.
        layers: names, each that of a tensor too.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as one rank's file describes it.

    Attributes:
        token_ids: unsigned 32-bit integers, little-endian, one after the other.
        fingerprint: of this rank's weights, 64 hexadecimal digits.
        engine: what else the bytes depend on, field by field.
        salt_sha256: of the cache salt, if the requests had one.
    """

    token_ids: bytes
    hashes: Hashes
    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    fingerprint: str
    engine: Mapping[str, JSON]
    adapter: Adapter | None = None
    salt_sha256: str | None = None
    media: tuple[Media, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.token_ids) // 4

    def record(self) -> dict[str, JSON]:
        """Say it in a snapshot's metadata."""
        hashes = self.hashes
        said: dict[str, JSON] = {
            "major": MAJOR,
            "minor": 0,
            "token_ids": _text(self.token_ids),
            "hashes": {
                "algorithm": hashes.algorithm,
                "seed": hashes.seed.hex(),
                "block_tokens": hashes.block_tokens,
                "values": _text(hashes.values),
            },
            "groups": [_said(group) for group in self.groups],
            "layers": {name: _said(layer) for name, layer in self.layers.items()},
            "fingerprint": self.fingerprint,
            "engine": dict(self.engine),
            "adapter": None if self.adapter is None else _said(self.adapter),
            "salt_sha256": self.salt_sha256,
            "media": [_said(each) for each in self.media],
        }
        return {KEY: said}

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Read what a snapshot says of its session.

        Raises:
            FormatError: it holds none, or one that breaks a rule of the profile.
        """
        raise NotImplementedError
