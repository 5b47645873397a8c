"""Freeze: from tensors to a file."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from thaw_format import (
    DEFAULT_CHUNK_NBYTES,
    INDEX_NAME,
    JSON,
    Chunks,
    Description,
    FileTarget,
    Layout,
    Shard,
    ThawError,
    collector_paused,
    find_staged,
    has_every_rank,
    layout_tensors,
    make_staging_folder,
    open_rank_files,
    place_of,
    rank_file,
    seal_folder,
    serialize_index,
    write_file,
    write_shard,
)
from torch import nn

from .plugins.choosing import select_backend
from .plugins.endings import check_ending
from .reports import FreezeReport
from .seam.backend import Backend, Progress, Transfer, written_digests
from .seam.plan import Extents, WritePlan
from .tensors.census import Census, left_out, take_census
from .tensors.module_metadata import describe
from .version import __version__

_log = logging.getLogger("thaw")
_LISTED = 5


def freeze(
    subject: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    backend: str | Backend = "auto",
    kind: str = "weights",
    shard: Shard | None = None,
    snapshot_id: str | None = None,
    metadata: Mapping[str, JSON] | None = None,
    chunk_nbytes: int = DEFAULT_CHUNK_NBYTES,
    progress: Progress | None = None,
) -> FreezeReport:
    """Freeze the tensors of a module or mapping to a `.thaw` file.

    The file appears under its name only when it is whole; one of that name is replaced then.

    Keep the tensors still until it returns. One that another thread or stream changes meanwhile is
    stored in part as it was before and in part as it was after: the file is whole and verifies, for
    its digests are of the bytes in it, but no state of the program may be equal to it. What is
    frozen under a lock, or of a model that does not run, is one state.

    Args:
        subject: a module, of which parameters, buffers (non-persistent ones too) and all that its
            `state_dict()` has are taken, or a mapping of tensors.
        path: the file; with a `shard` of several ranks, the folder that `thaw.finish_ranks` then
            makes of their files. Until then they lie in a hidden folder beside it, where the
            report's path leads, and what has that name stays.
        backend: a name, "auto", or a `Backend`.
        kind: what the snapshot holds.
        shard: this process's place among the ranks.
        snapshot_id: 32 hexadecimal digits, the same on every rank; needed with several ranks.
        metadata: any JSON without fractions; give floats as strings. Keys that begin with "thaw."
            are thaw's own: it says there what a restore or an export of a module has to know.
        chunk_nbytes: the size of a chunk, a power of two from 4096 to 2^30.
        progress: called with the number of bytes just moved.

    Raises:
        TypeError: a tensor cannot be stored, or the module has state that cannot be.
        ThawError: the path ends like another format, such as `.safetensors`.
        FormatError: a name or the metadata cannot be said in the format.
        BackendError: the backend is unknown, unavailable, or failed.
        FileExistsError: with several ranks, a folder of that name holds other things.
        OSError: the file cannot be written; an existing one is untouched.
    """
    began = time.perf_counter()
    check_ending(Path(path), "thaw")
    shard = shard or Shard()
    with collector_paused():
        census = take_census(subject)
        _check_storable(census)
        layout = layout_tensors(_with_states(census))
    description = Description(
        kind=kind,
        shard=shard,
        producer={"name": "thaw", "version": __version__},
        metadata={**(metadata or {}), **describe(census)},
        chunk_nbytes=chunk_nbytes,
        snapshot_id=_identity(shard, snapshot_id),
    )
    file = _file(Path(path), shard, description.snapshot_id)
    device = _device(layout)
    mover = select_backend(backend, "write", device, file)
    transfers: list[Transfer] = []

    def write_payload(target: FileTarget, layout: Layout, chunks: Chunks) -> Sequence[int]:
        transfers.append(mover.write(target, _plan(layout, chunks), progress=progress))
        return written_digests(mover, transfers[-1], chunks)

    superblock = write_shard(file, layout, description, write_payload)
    return FreezeReport(
        path=file,
        snapshot_id=superblock.snapshot_id.hex(),
        nbytes=sum(storage.nbytes for storage in layout.storages),
        elapsed_s=time.perf_counter() - began,
        tensors=len(layout.tensors),
        backend=mover.name,
        route=transfers[-1].route,
        left_out=left_out(subject, census) if isinstance(subject, nn.Module) else (),
    )


def _with_states(census: Census) -> dict[str, torch.Tensor]:
    tensors = dict(census.tensors)
    for state in census.states.values():
        for name, tensor in state.tensors.items():
            if name in tensors:
                raise TypeError(f"two tensors would have the name {name!r}")
            tensors[name] = tensor
    return tensors


def _check_storable(census: Census) -> None:
    if not census.others:
        return
    names = [f"{name!r} ({kind})" for name, kind in census.others.items()]
    listed = ", ".join(names[:_LISTED]) + (" ..." if len(names) > _LISTED else "")
    raise TypeError(
        f"the module has state that cannot be frozen: {listed}; freeze a mapping "
        "of the tensors that you want"
    )


def finish_ranks(path: str | os.PathLike[str], *, snapshot_id: str | None = None) -> None:
    """Make what every rank has frozen a snapshot: write `snapshot.json`, and give it its name.

    Ranks write to a hidden folder beside `path`. It replaces what has that name when all of it is
    there, in one step where the file system can exchange folders; files of ranks that were
    brought into a folder of that name by hand are sealed where they are.

    Args:
        snapshot_id: which snapshot, where an earlier freeze to that path was not finished.

    Raises:
        FormatError: a rank is missing or damaged, or belongs to another snapshot.
        ThawError: several snapshots wait for that name, and none was named.
        OSError: the folder cannot be read or written.
    """
    final = Path(path)
    staged = _staged(final, snapshot_id)
    folder = staged or final
    shards = open_rank_files(folder)
    try:
        index = serialize_index(shards)
        files = [folder / each.path.name for each in shards]
    finally:
        for each in shards:
            each.close()
    write_file(folder / INDEX_NAME, index)
    if staged is not None:
        seal_folder(staged, place_of(final), [*files, folder / INDEX_NAME])


def _staged(path: Path, snapshot_id: str | None) -> Path | None:
    """Find the folder of the snapshot that waits for a name; None if its ranks brought it there."""
    waiting = find_staged(path)
    if snapshot_id is not None:
        return waiting.get(_hexadecimal(snapshot_id))
    whole = {each: folder for each, folder in waiting.items() if has_every_rank(folder)}
    if len(whole) == 1:
        for left in set(waiting.values()) - set(whole.values()):
            _log.warning("%s: an unfinished freeze left it; remove it", left)
        waiting = whole
    if len(waiting) > 1:
        raise ThawError(
            f"{len(waiting)} snapshots wait for the name {path} ({', '.join(waiting)}); say which "
            "with snapshot_id=, and remove the folders of the others"
        )
    return next(iter(waiting.values()), None)


def _hexadecimal(snapshot_id: str) -> str:
    identity = bytes.fromhex(snapshot_id)
    if len(identity) != 16:
        raise ValueError(f"snapshot_id has {len(identity)} bytes, not 16")
    return identity.hex()


def _identity(shard: Shard, snapshot_id: str | None) -> bytes:
    if snapshot_id is None:
        if shard.size > 1:
            raise TypeError("several ranks need one snapshot_id=, the same for all of them")
        return secrets.token_bytes(16)
    return bytes.fromhex(_hexadecimal(snapshot_id))


def _file(path: Path, shard: Shard, snapshot_id: bytes) -> Path:
    if shard.size == 1:
        return path
    return make_staging_folder(path, snapshot_id.hex()) / rank_file(shard.rank, shard.size)


def _device(layout: Layout) -> torch.device:
    devices = {memory.device for memory in layout.memory} - {torch.device("cpu")}
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise TypeError(f"tensors are on several devices ({listed}); freeze a part for each")
    return devices.pop() if devices else torch.device("cpu")


def _plan(layout: Layout, chunks: Chunks) -> WritePlan:
    offsets = [chunks.offset + each.offset for each in layout.storages if each.nbytes]
    return WritePlan(
        Extents.over(offsets, [memory for memory in layout.memory if memory.numel()]), chunks
    )
