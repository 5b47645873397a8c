"""The tensor table (specification, section 13.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from thaw_format import Snapshot, TensorSpec, dtype_name, format_error, tensor_view
from thaw_format.checksum import host_buffer

from thaw.planning import bytes_of

_PIECE_NBYTES = 4 << 20
_FREE_NBYTES = 16 << 20


def tensor_table(snapshots: Sequence[Snapshot], *, sha256: bool) -> list[dict[str, Any]]:
    """List the tensors of every rank, sorted by rank and name.

    Raises:
        FormatError: `limit`, if the tensors' elements are far more than the file's bytes.
    """
    if sha256:
        _check_limit(snapshots)
    return [
        _row(snapshot, name, sha256) for snapshot in snapshots for name in sorted(snapshot.tensors)
    ]


def _check_limit(snapshots: Sequence[Snapshot]) -> None:
    for each in snapshots:
        claimed = sum(spec.nbytes for spec in each.tensors.values())
        if claimed > 1024 * each.file_nbytes + _FREE_NBYTES:
            raise format_error("limit", f"tensors of {claimed} bytes in all", path=each.path)


def _row(snapshot: Snapshot, name: str, sha256: bool) -> dict[str, Any]:
    spec = snapshot.tensors[name]
    row: dict[str, Any] = {
        "rank": snapshot.shard.rank,
        "name": name,
        "dtype": dtype_name(spec.dtype),
        "shape": list(spec.shape),
        "stride": list(spec.stride),
        "storage": spec.storage,
        "offset": spec.offset,
        "nbytes": spec.nbytes,
    }
    if sha256:
        digest = hashlib.sha256()
        for piece in _elements(snapshot, spec):
            digest.update(piece)
        row["sha256"] = digest.hexdigest()
    return row


def _elements(snapshot: Snapshot, spec: TensorSpec) -> Iterator[bytes]:
    storage = snapshot.storages[spec.storage]
    start, end = storage.offset + spec.offset, storage.offset + spec.offset + spec.extent
    if spec.nbytes == spec.extent and _in_order(spec):
        for at in range(start, end, _PIECE_NBYTES):
            yield _read(snapshot, storage.source, at, min(_PIECE_NBYTES, end - at))
    elif spec.nbytes:
        memory = torch.empty(end - start, dtype=torch.uint8)
        snapshot.sources[storage.source].read_into(start, [host_buffer(memory)])
        elements = bytes_of(tensor_view(memory, spec, 0))
        yield bytes(host_buffer(elements))


def _in_order(spec: TensorSpec) -> bool:
    """Say whether the elements stand in the file in index order, without gaps."""
    count = 1
    for size, step in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if size > 1 and step != count:
            return False
        count *= size
    return True


def _read(snapshot: Snapshot, source: int, offset: int, nbytes: int) -> bytes:
    memory = torch.empty(nbytes, dtype=torch.uint8)
    buffer = host_buffer(memory)
    snapshot.sources[source].read_into(offset, [buffer])
    return bytes(buffer)


def describe(path: Path, snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Say what a snapshot is, beside its tensors."""
    first = snapshots[0]
    digests = first.digests[0] if first.digests else None
    return {
        "path": str(path),
        "format": first.format,
        "kind": first.kind,
        "snapshot_id": first.snapshot_id,
        "producer": dict(first.producer),
        "metadata": dict(first.metadata),
        "ranks": len(snapshots),
        "storages": sum(len(each.storages) for each in snapshots),
        "nbytes": sum(each.nbytes for each in snapshots),
        "file_nbytes": sum(each.file_nbytes for each in snapshots),
        "chunk_nbytes": digests.chunks.chunk_nbytes if digests else None,
    }
