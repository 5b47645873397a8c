"""The formats that come with thaw, as plugins see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import thaw_safetensors
from thaw_format import (
    FileSource,
    ShardFile,
    Snapshot,
    Source,
    UnparsedShard,
    open_rank,
    open_ranks,
    open_shard,
    open_unparsed,
    read_index,
    verify_shard,
)

from ..seam.format import Format

if TYPE_CHECKING:
    import torch


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

    def open(self, place: Source | Path) -> tuple[Snapshot, ...]:
        return open_ranks(place) if isinstance(place, Path) else (open_shard(place),)

    def open_rank(self, place: Source | Path, rank: int) -> Snapshot:
        if not isinstance(place, Path):
            return super().open_rank(place, rank)
        index = read_index(place)
        if not 0 <= rank < len(index.ranks):
            raise IndexError(rank)
        return open_rank(place, index, rank)

    def open_unparsed(self, source: Source) -> UnparsedShard | None:
        return open_unparsed(source)

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

    def open(self, place: Source | Path) -> tuple[Snapshot, ...]:
        if isinstance(place, FileSource):
            # It may be the index of a folder, whose other files are opened by their names.
            place.close()
            place = place.path
        if isinstance(place, Path):
            return (thaw_safetensors.open_checkpoint(place),)
        return (thaw_safetensors.open_file(place),)

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


BUILT_IN = (ThawFormat(), SafetensorsFormat())
