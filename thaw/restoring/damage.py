"""What a damaged chunk means."""

from __future__ import annotations

import os

from thaw_format import ChecksumError, Snapshot, chunk_error


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
