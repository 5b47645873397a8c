"""The formats that come with thaw, as plugins see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import thaw_safetensors
import torch
from thaw_format import (
    ShardFile,
    Snapshot,
    UnparsedShard,
    open_rank,
    open_ranks,
    open_shard,
    open_unparsed,
    read_index,
    verify_shard,
)

from ..seam.format import Format


class ThawFormat(Format):
    """The `.thaw` format."""

    name = "thaw"
    description = "thaw snapshots: a file, or a folder with one file a rank"
    suffixes = (".thaw",)
    keeps_layout = True

    def recognizes(self, path: Path, head: bytes) -> bool:
        if path.is_dir():
            return (path / "snapshot.json").exists() or path.suffix == ".thaw"
        return head[1:5] == b"THAW" or head.startswith(b"THAW") or path.suffix == ".thaw"

    def open(self, path: Path) -> tuple[Snapshot, ...]:
        return open_ranks(path)

    def open_rank(self, path: Path, rank: int) -> Snapshot:
        if not path.is_dir():
            if rank:
                raise IndexError(rank)
            return open_shard(path)
        index = read_index(path)
        if not 0 <= rank < len(index.ranks):
            raise IndexError(rank)
        return open_rank(path, index, rank)

    def open_unparsed(self, path: Path) -> UnparsedShard | None:
        return None if path.is_dir() else open_unparsed(path)

    def verify(self, snapshot: Snapshot, progress: Callable[[int], None] | None) -> int:
        assert isinstance(snapshot, ShardFile)
        return verify_shard(snapshot, progress)


class SafetensorsFormat(Format):
    """`.safetensors` files and sharded checkpoints."""

    name = "safetensors"
    description = "a .safetensors file, a folder of them, or the index of one"
    suffixes = (".safetensors",)

    def recognizes(self, path: Path, head: bytes) -> bool:
        return thaw_safetensors.recognizes(path, head)

    def open(self, path: Path) -> tuple[Snapshot, ...]:
        return (thaw_safetensors.open_checkpoint(path),)

    def open_rank(self, path: Path, rank: int) -> Snapshot:
        if rank:
            raise IndexError(rank)
        return thaw_safetensors.open_checkpoint(path)

    def verify(self, snapshot: Snapshot, progress: Callable[[int], None] | None) -> int:
        return 0

    def export(
        self,
        path: Path,
        snapshot: Snapshot,
        names: Sequence[str],
        tensors: Iterable[tuple[str, torch.Tensor]],
        *,
        max_shard_nbytes: int | None = None,
    ) -> tuple[Path, ...]:
        return tuple(
            thaw_safetensors.write_snapshot(
                path, snapshot, names, tensors, max_shard_nbytes=max_shard_nbytes
            )
        )
