"""Restores that read the payload while the manifest is parsed.

The payload is itself an arena of tensors (specification, STO-1), and the superblock says where it
lies. Of thousands of tensors the manifest takes a good part of the time that their bytes take.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    ChecksumError,
    ShardFile,
    ThawError,
    UnparsedShard,
    Viewer,
    collector_paused,
)

from ..plugins.choosing import select_backend
from ..reports import Restored, RestoreReport
from ..seam.backend import Backend, Progress
from ..seam.plan import Extent, ReadPlan
from ..tensors.arena import allocate
from .damage import named

_WORTH_NBYTES = 1 << 20
"""Parsing a smaller manifest takes too little time to be hidden."""
_SMALL_NBYTES = 4 << 20
"""Gaps of so many bytes together are of no account."""
_STORAGE_NBYTES = re.compile(rb'"nbytes"\s*:\s*(\d{1,16})')
"""What says in a manifest how large a storage is. In a name or a text its quotes are escaped."""
_Views: TypeAlias = tuple[ShardFile, Mapping[str, torch.Tensor], int]
"""What the manifest says, its tensors, and the bytes of their storages."""


def is_worth_it(shard: UnparsedShard) -> bool:
    """Say whether parsing the manifest takes long enough to be done while bytes move.

    And whether the payload is hardly more than its storages: all of it becomes the arena, and
    another writer may have left large gaps in it.
    """
    payload_nbytes = shard.digests.chunks.nbytes
    if len(shard.manifest) < _WORTH_NBYTES or not payload_nbytes:
        return False
    sizes = _STORAGE_NBYTES.findall(shard.manifest)
    gaps_nbytes = payload_nbytes - sum(map(int, sizes)) - len(sizes) * (STORAGE_ALIGNMENT - 1)
    return gaps_nbytes <= max(_SMALL_NBYTES, payload_nbytes // 8)


def restore_ahead(
    shard: UnparsedShard,
    device: str | torch.device | None,
    backend: str | Backend,
    progress: Progress | None,
) -> Restored:
    """Restore all tensors of a file to new memory.

    Raises:
        FormatError, BackendError: as of `thaw.restore`; of several errors that which opening the
            file would have found.
    """
    where = torch.device("cpu" if device is None else device)
    mover = select_backend(backend, "read", where, shard.source.path, (shard.source,))
    return _restore(shard, where, mover, progress)


def _restore(
    shard: UnparsedShard, device: torch.device, mover: Backend, progress: Progress | None
) -> Restored:
    began = time.perf_counter()
    chunks = shard.digests.chunks
    arena = allocate(chunks.nbytes, device)
    plan = ReadPlan((Extent(chunks.offset, arena),), shard.digests)
    # The bytes move in this thread, which is the one that an interrupt ends.
    with ThreadPoolExecutor(1, "thaw-manifest") as pool:
        views: Future[_Views] = pool.submit(_parse, shard, arena)
        try:
            transfer = mover.read(shard.source, plan, progress=progress)
        except ThawError as error:
            snapshot, *_ = views.result()
            if isinstance(error, ChecksumError):
                raise named(snapshot, error) from None
            raise
        snapshot, tensors, nbytes = views.result()
    report = RestoreReport(
        path=snapshot.path,
        nbytes=nbytes,
        elapsed_s=time.perf_counter() - began,
        tensors=len(tensors),
        backend=mover.name,
        path_ran=transfer.path,
        chunks_checked=transfer.chunks_checked,
    )
    return Restored(tensors, report)


def _parse(shard: UnparsedShard, arena: torch.Tensor) -> _Views:
    """Parse the manifest and view every tensor, whose bytes may still be on their way."""
    with collector_paused():
        snapshot = shard.parse()
        starts = [storage.offset - shard.digests.chunks.offset for storage in snapshot.storages]
        viewer = Viewer(arena)
        views = {
            name: viewer.view(spec, starts[spec.storage] + spec.offset)
            for name, spec in snapshot.tensors.items()
        }
        viewed = {spec.storage for spec in snapshot.tensors.values()}
        return snapshot, views, sum(snapshot.storages[index].nbytes for index in viewed)
