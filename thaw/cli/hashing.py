"""The SHA-256 of tensors' elements, for the tensor table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from thaw_format import Snapshot, TensorSpec
from thaw_format.checksum import host_buffer

from thaw.tensors.limits import check_limit

from .elements import element_pieces
from .shapes import TensorJSON


def add_sha256(
    rows: Sequence[TensorJSON],
    snapshots: Sequence[Snapshot],
    progress: Callable[[int], None] | None,
) -> None:
    """Add to each row of the table the SHA-256 of the tensor's elements in index order.

    Raises:
        FormatError: `limit`, if the elements of a shard's tensors far outgrow its files (CON-3).
    """
    for each in snapshots:
        check_limit(each)
    by_rank = {each.shard.rank: each for each in snapshots}
    digests: dict[tuple[int, object], str] = {}
    for row in rows:
        snapshot = by_rank[row["rank"]]
        spec = snapshot.tensors[row["name"]]
        key = row["rank"], spec.layout
        if key not in digests:
            digests[key] = _sha256(snapshot, spec, progress)
        row["sha256"] = digests[key]


def _sha256(snapshot: Snapshot, spec: TensorSpec, progress: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    for piece in element_pieces(snapshot, spec):
        digest.update(host_buffer(piece))
        if progress:
            progress(piece.numel())
    return digest.hexdigest()
