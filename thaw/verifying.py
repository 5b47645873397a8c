"""Verify: every byte of a snapshot against its digests."""

from __future__ import annotations

import os
import time
from pathlib import Path

from thaw_format import ChecksumError, Snapshot, chunk_error

from .backend import Progress
from .reports import VerifyReport
from .selection import find_format


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> VerifyReport:
    """Check a snapshot of any known format, all its ranks, without restoring it.

    Args:
        progress: called with the number of bytes just checked.

    Returns:
        A report; `has_digests` says whether the format can show that bytes are unchanged.

    Raises:
        FormatError: something is damaged; the message names the tensors.
    """
    began = time.perf_counter()
    found = find_format(path)
    snapshots = found.open(Path(path))
    try:
        checked = sum(found.verify(each, progress) for each in snapshots)
        return VerifyReport(
            path=Path(path),
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


def named(snapshot: Snapshot, error: ChecksumError) -> ChecksumError:
    """Name the tensors in the chunk that a backend found damaged."""
    for source, digests in enumerate(snapshot.digests):
        path = snapshot.sources[source].path
        if digests and error.offset is not None and error.path == os.fspath(path):
            index = (error.offset - digests.chunks.offset) // digests.chunks.chunk_nbytes
            found = chunk_error(snapshot, source, index)
            assert isinstance(found, ChecksumError)
            return found
    return error
