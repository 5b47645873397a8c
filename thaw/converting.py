"""Convert: from one file format to another, a bounded part at a time."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path

import torch
from thaw_format import (
    Chunks,
    Description,
    FileTarget,
    Layout,
    Snapshot,
    ThawError,
    collector_paused,
    write_shard,
)

from .plugins.choosing import select_backend
from .plugins.endings import choose_format
from .plugins.opening import open_snapshot
from .reports import ConvertReport
from .restoring.matching import select_names
from .restoring.plan import Wanted
from .restoring.regions import Region, buffer_nbytes, find_regions, lay_out, read_into, read_tensors
from .seam.backend import Backend, Progress, written_digests
from .seam.plan import Extents, WritePlan
from .tensors.arena import allocate
from .tensors.limits import check_limit
from .tensors.module_metadata import persistent
from .version import __version__

_HOST = torch.device("cpu")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | Backend = "auto",
    names: str | Sequence[str] | None = None,
    rank: int | None = None,
    max_shard_nbytes: int | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write the tensors of a snapshot or checkpoint in another format.

    Bytes go through host memory, 64 MiB at a time; only a tensor that is larger, on its way to a
    format that has no strides, is held whole. In a `.thaw` file tied tensors stay tied and strides
    stay as they are. In a `.safetensors` file each name has bytes of its own, in index order: that
    format has neither, and other readers find tensors by their names alone.

    What `state_dict()` of the frozen module did not have, such as non-persistent buffers, is left
    out of other formats than `.thaw`: no checkpoint has it, and loaders refuse it.

    Args:
        format: the format of the destination; by its suffix if not given.
        names: shell-style patterns of the tensors to take.
        max_shard_nbytes: the most bytes of tensors that a file of the destination, a folder,
            holds; if not given, the files are those of the checkpoint that the tensors come from.
        progress: called with the number of bytes just read or written.

    Raises:
        FormatError: the source is damaged, or its tensors far outgrow its files.
        MismatchError: there are several ranks and none was named, or no tensor has such a name.
        TypeError: the destination's format cannot hold these tensors.
        ThawError: the destination's name does not say its format, or says another.
        OSError: the destination cannot be written; what was there is untouched.
    """
    began = time.perf_counter()
    destination = Path(destination)
    into = choose_format(destination, format)
    is_file = into.name == "thaw" or destination.name.endswith(into.suffixes)
    if is_file and max_shard_nbytes is not None:
        raise ThawError(f"{destination} is one file, and max_shard_nbytes= goes with a folder")
    with open_snapshot(source, rank=rank) as snapshot:
        chosen = select_names(snapshot.tensors, names)
        reader = select_backend(backend, "read", _HOST, snapshot.path, snapshot.sources)
        if into.name == "thaw":
            writer = select_backend(backend, "write", _HOST, destination)
            _freeze(snapshot, chosen, destination, reader, writer, progress)
            files: tuple[Path, ...] = (destination,)
        else:
            specs = {name: snapshot.tensors[name] for name in chosen}
            chosen = list(persistent(specs, snapshot.metadata))
            check_limit(snapshot, chosen)
            tensors = read_tensors(snapshot, chosen, reader, progress)
            files = into.export(
                destination, snapshot, chosen, tensors, max_shard_nbytes=max_shard_nbytes
            )
        storages = {snapshot.tensors[name].storage for name in chosen}
        return ConvertReport(
            nbytes=sum(snapshot.storages[each].nbytes for each in storages),
            elapsed_s=time.perf_counter() - began,
            source_format=snapshot.format,
            destination_format=into.name,
            tensors=len(chosen),
            backend=reader.name,
            files=files,
        )


def _freeze(
    snapshot: Snapshot,
    names: Sequence[str],
    destination: Path,
    reader: Backend,
    writer: Backend,
    progress: Progress | None,
) -> None:
    """Write tensors to a `.thaw` file as they lie in their storages, window by window."""
    with collector_paused():
        regions = find_regions(snapshot, names)
        layout = lay_out(regions, names)

    def write_payload(target: FileTarget, layout: Layout, chunks: Chunks) -> Sequence[int]:
        digests: list[int] = []
        window = -(-buffer_nbytes(snapshot) // chunks.chunk_nbytes) * chunks.chunk_nbytes
        buffer = allocate(min(window, chunks.nbytes), _HOST)
        for start in range(0, chunks.nbytes, window):
            memory = buffer[: min(window, chunks.nbytes - start)]
            # What no region fills is zero.
            memory.zero_()
            read_into(snapshot, _parts(regions, layout, start, memory), reader, progress)
            part = Chunks(chunks.offset + start, len(memory), chunks.chunk_nbytes)
            plan = WritePlan(Extents.over([part.offset], [memory]), part)
            done = writer.write(target, plan, progress=progress)
            digests += written_digests(writer, done, part)
        return digests

    description = Description(
        kind=snapshot.kind,
        producer={"name": "thaw", "version": __version__},
        metadata=snapshot.metadata,
    )
    write_shard(destination, layout, description, write_payload)


def _parts(
    regions: Sequence[Region], layout: Layout, start: int, memory: torch.Tensor
) -> Iterator[Wanted]:
    """Yield what of the regions lies in a window of the payload."""
    end = start + len(memory)
    at = max(0, bisect_right(layout.storages, start, key=attrgetter("offset")) - 1)
    for region, storage in islice(zip(regions, layout.storages, strict=True), at, None):
        first, last = max(storage.offset, start), min(storage.offset + storage.nbytes, end)
        if storage.offset >= end:
            break
        if first < last:
            begin = region.start + first - storage.offset
            yield region.storage, begin, memory[first - start : last - start]
