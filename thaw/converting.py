"""Convert: from one file format to another."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from thaw_format import Snapshot, ThawError

from .backend import Backend, Progress
from .format import Format
from .freezing import freeze
from .module_metadata import persistent
from .plugins import registry
from .reports import ConvertReport, Restored
from .restoring import restore
from .selection import open_snapshot


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | Backend = "auto",
    names: str | Sequence[str] | None = None,
    rank: int | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write the tensors of a snapshot or checkpoint in another format, through host memory.

    What `state_dict()` of the frozen module did not have, such as non-persistent buffers, is left
    out of other formats than `.thaw`: no checkpoint has it, and loaders refuse it.

    Args:
        format: the format of the destination; by its suffix if not given.
        names: shell-style patterns of the tensors to take.
        progress: called with the number of bytes just read or written.

    Raises:
        FormatError: the source is damaged.
        TypeError: the destination's format cannot hold these tensors.
        OSError: the destination cannot be written; what was there is untouched.
    """
    began = time.perf_counter()
    into = _format(Path(destination), format)
    with open_snapshot(source, rank=rank) as snapshot:
        tensors = restore(snapshot, backend=backend, names=names, progress=progress)
        files = _write(into, Path(destination), tensors, snapshot, backend, progress)
        written = tensors if into.name == "thaw" else persistent(tensors, snapshot.metadata)
        return ConvertReport(
            nbytes=tensors.report.nbytes,
            elapsed_s=time.perf_counter() - began,
            source_format=snapshot.format,
            destination_format=into.name,
            tensors=len(written),
            backend=tensors.report.backend,
            files=files,
        )


def _write(
    into: Format,
    destination: Path,
    tensors: Restored,
    snapshot: Snapshot,
    backend: str | Backend,
    progress: Progress | None,
) -> tuple[Path, ...]:
    if into.name != "thaw":
        return into.export(destination, tensors, snapshot.metadata)
    report = freeze(
        tensors,
        destination,
        backend=backend,
        kind=snapshot.kind,
        metadata=snapshot.metadata,
        progress=progress,
    )
    return (report.path,)


def _format(destination: Path, name: str | None) -> Format:
    formats: Mapping[str, Format] = registry().formats
    if name is not None:
        if name not in formats:
            raise ThawError(f"there is no format {name!r}; known here: {', '.join(formats)}")
        return formats[name]
    for each in formats.values():
        if destination.name.endswith(each.suffixes):
            return each
    raise ThawError(f"the format of {destination} is not plain from its name; say format=")
