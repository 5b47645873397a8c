"""Verify: every byte of a snapshot against its digests."""

from __future__ import annotations

import time
from pathlib import Path

from thaw_format import Source

from .plugins.opening import StrPath, recognize
from .reports import VerifyReport
from .seam.backend import Progress


def verify(path: StrPath | Source, *, progress: Progress | None = None) -> VerifyReport:
    """Check a snapshot of any known format, all its ranks, without restoring it.

    Args:
        progress: called with the number of bytes just checked.

    Returns:
        A report; `has_digests` says whether the format can show that bytes are unchanged.

    Raises:
        FormatError: something is damaged; the message names the tensors.
    """
    began = time.perf_counter()
    found, place = recognize(path)
    snapshots = found.open(place)
    try:
        checked = sum(found.verify(each, progress) for each in snapshots)
        return VerifyReport(
            path=place if isinstance(place, Path) else place.path,
            nbytes=sum(each.file_nbytes for each in snapshots),
            elapsed_s=time.perf_counter() - began,
            ranks=len(snapshots),
            tensors=sum(len(each.tensors) for each in snapshots),
            chunks_checked=checked,
            has_digests=all(d is not None for each in snapshots for d in each.digests),
        )
    finally:
        for each in snapshots:
            each.close()
