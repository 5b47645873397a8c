"""Which format a path is of, and the snapshots that it holds."""

from __future__ import annotations

import os
from pathlib import Path

from thaw_format import FileSource, FormatError, Snapshot, describe
from thaw_safetensors import describe_pickles

from ..errors import MismatchError
from ..seam.format import Format
from .host import registry

_HEAD_NBYTES = 4096


def find_format(path: str | os.PathLike[str]) -> Format:
    """Recognize the format of a file or folder.

    Raises:
        FormatError: no format knows it; the message says what it seems to be.
        OSError: it cannot be read.
    """
    path = Path(path)
    head = b""
    if not path.is_dir():
        source = FileSource(path)
        head = source.read(0, _HEAD_NBYTES)
        source.close()
    for each in registry().formats.values():
        if each.recognizes(path, head):
            return each
    known = ", ".join(registry().formats)
    if path.is_dir():
        pickles = describe_pickles(path)
        what = "a folder that holds no snapshot and no checkpoint"
        what += f": {pickles}" if pickles else ""
    else:
        what = f"unknown format: {describe(head) if head else 'the file is empty'}"
    raise FormatError(f"{what} (known formats: {known})", code="unknown-format", path=path)


def open_snapshot(path: str | os.PathLike[str], *, rank: int | None = None) -> Snapshot:
    """Open the snapshot of one rank: read and check everything but the tensors' bytes.

    Args:
        path: a file or folder of any known format.
        rank: which rank, where there are several.

    Raises:
        FormatError: the file is damaged or of an unknown format.
        MismatchError: there are several ranks and none was named, or not that one.
    """
    found = find_format(path)
    if rank is not None:
        try:
            return found.open_rank(Path(path), rank)
        except IndexError:
            raise MismatchError(f"{os.fspath(path)} has no rank {rank}") from None
    snapshots = found.open(Path(path))
    if len(snapshots) > 1:
        for each in snapshots:
            each.close()
        raise MismatchError(
            f"{os.fspath(path)} has {len(snapshots)} ranks; say which one with rank="
        )
    return snapshots[0]


def open_ranks(path: str | os.PathLike[str]) -> tuple[Snapshot, ...]:
    """Open the snapshots of all ranks; see `open_snapshot`."""
    return find_format(path).open(Path(path))
