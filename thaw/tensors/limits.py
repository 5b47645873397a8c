"""Limits on what a small file may ask for."""

from __future__ import annotations

from collections.abc import Iterable

from thaw_format import Snapshot, format_error

_FREE_NBYTES = 16 << 20
_TIMES = 1024


def check_limit(snapshot: Snapshot, names: Iterable[str] | None = None) -> None:
    """Refuse tensors whose elements far outgrow their files (CON-3): no memory may hold them.

    Args:
        names: the tensors whose elements are wanted; all if not given.

    Raises:
        ManifestError: with the code `limit`.
    """
    chosen = snapshot.tensors if names is None else names
    claimed = sum(snapshot.tensors[name].nbytes for name in chosen)
    if claimed > _TIMES * snapshot.file_nbytes + _FREE_NBYTES:
        raise format_error(
            "limit",
            f"its tensors have {claimed} bytes in all, far more than the file: too many to copy",
            path=snapshot.path,
        )
