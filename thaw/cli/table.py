"""The tensor table (specification, section 13.1) and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thaw_format import RankOf, ShardFile, Snapshot

from .shapes import InspectJSON, PlaceJSON, RankJSON, TensorJSON


def tensor_table(snapshots: Sequence[Snapshot]) -> list[TensorJSON]:
    """List the tensors of every rank, sorted by rank, then by name."""
    return [_row(each, name) for each in snapshots for name in sorted(each.tensors)]


def describe(path: Path, snapshots: Sequence[Snapshot], chunks_checked: int) -> InspectJSON:
    """Describe a snapshot, with its tensor table."""
    first = snapshots[0]
    return {
        "path": str(path),
        "format": first.format,
        "format_version": _version(first),
        "kind": first.kind,
        "snapshot_id": first.snapshot_id,
        "producer": dict(first.producer),
        "metadata": dict(first.metadata),
        "nbytes": sum(each.nbytes for each in snapshots),
        "file_nbytes": sum(each.file_nbytes for each in snapshots),
        "storages": sum(len(each.storages) for each in snapshots),
        "chunk_nbytes": _chunk_nbytes(first),
        "chunks_checked": chunks_checked,
        "ranks": [_rank(each) for each in snapshots],
        "tensors": tensor_table(snapshots),
    }


def _row(snapshot: Snapshot, name: str) -> TensorJSON:
    spec = snapshot.tensors[name]
    return {
        "rank": snapshot.shard.rank,
        "name": name,
        "dtype": spec.dtype_name,
        "shape": list(spec.shape),
        "stride": list(spec.stride),
        "storage": spec.storage,
        "offset": spec.offset,
        "nbytes": spec.nbytes,
    }


def _version(snapshot: Snapshot) -> str | None:
    if isinstance(snapshot, ShardFile):
        return f"{snapshot.superblock.major}.{snapshot.superblock.minor}"
    return None


def _chunk_nbytes(snapshot: Snapshot) -> int | None:
    return next((each.chunks.chunk_nbytes for each in snapshot.digests if each), None)


def _rank(snapshot: Snapshot) -> RankJSON:
    shard = snapshot.shard
    return {
        "rank": shard.rank,
        "size": shard.size,
        "tp": _place(shard.tp),
        "pp": _place(shard.pp),
        "ep": _place(shard.ep),
        "files": [str(source.path) for source in snapshot.sources],
        "tensors": len(snapshot.tensors),
        "storages": len(snapshot.storages),
        "nbytes": snapshot.nbytes,
        "file_nbytes": snapshot.file_nbytes,
        "chunks": sum(len(each.chunks) for each in snapshot.digests if each),
        "metadata": dict(snapshot.metadata),
    }


def _place(place: RankOf | None) -> PlaceJSON | None:
    return {"rank": place.rank, "size": place.size} if place else None
