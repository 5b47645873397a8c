"""Which format a path is of, and the snapshots that it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from thaw_format import FileSource, FormatError, Snapshot, Source, describe
from thaw_safetensors import describe_pickles

from ..errors import MismatchError
from ..seam.format import Format
from .formats import BUILT_IN

StrPath: TypeAlias = str | os.PathLike[str]
_HEAD_NBYTES = 4096


def recognize(path: StrPath | Source) -> tuple[Format, Source | Path]:
    """Recognize the format of a file, a folder, or a source.

    Returns:
        The format, and what it opens: a file that is open by now, or a folder.

    Raises:
        FormatError: no format knows it; the message says what it seems to be.
        OSError: it cannot be read.
        TypeError: it is none of these.
    """
    if not isinstance(path, str | os.PathLike):
        if not isinstance(path, Source):
            raise TypeError(f"expected a path or a thaw.Source, not {type(path).__name__}")
        return _format_of(path), path
    where = Path(path)
    if where.is_dir():
        return _chosen(where, b""), where
    source = FileSource(where)
    return _format_of(source), source


def _format_of(source: Source) -> Format:
    try:
        return _chosen(source.path, source.read(0, _HEAD_NBYTES))
    except BaseException:
        source.close()
        raise


def _chosen(path: Path, head: bytes) -> Format:
    for each in _formats():
        if each.recognizes(path, head):
            return each
    known = ", ".join(each.name for each in _formats())
    if path.is_dir():
        pickles = describe_pickles(path)
        what = "a folder that holds no snapshot and no checkpoint"
        what += f": {pickles}" if pickles else ""
    else:
        what = f"unknown format: {describe(head) if head else 'the file is empty'}"
    raise FormatError(f"{what} (known formats: {known})", code="unknown-format", path=path)


def _formats() -> Iterator[Format]:
    """Yield the formats; those of plugins, which take long to load, for what is of no other."""
    yield from BUILT_IN
    from .host import registry

    yield from (each for each in registry().formats.values() if each not in BUILT_IN)


def open_snapshot(path: StrPath | Source, *, rank: int | None = None) -> Snapshot:
    """Open the snapshot of one rank: read and check everything but the tensors' bytes.

    Args:
        path: a file or folder of any known format, or a source, which is closed with the snapshot.
        rank: which rank, where there are several.

    Raises:
        FormatError: the file is damaged or of an unknown format.
        MismatchError: there are several ranks and none was named, or not that one.
    """
    found, place = recognize(path)
    return open_one(found, place, rank)


def open_one(found: Format, place: Source | Path, rank: int | None) -> Snapshot:
    """Open the snapshot of one rank of what was recognized; see `open_snapshot`."""
    where = os.fspath(place if isinstance(place, Path) else place.path)
    if rank is not None:
        try:
            return found.open_rank(place, rank)
        except IndexError:
            raise MismatchError(f"{where} has no rank {rank}") from None
    snapshots = found.open(place)
    if len(snapshots) > 1:
        for each in snapshots:
            each.close()
        raise MismatchError(f"{where} has {len(snapshots)} ranks; say which one with rank=")
    return snapshots[0]


def open_ranks(path: StrPath | Source) -> tuple[Snapshot, ...]:
    """Open the snapshots of all ranks; see `open_snapshot`."""
    found, place = recognize(path)
    return found.open(place)
