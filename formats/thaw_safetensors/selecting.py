"""Which of the tensors in files are those that an index lists."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thaw_format import Source

from .errors import checkpoint_error
from .header import Header
from .index import Index

_log = logging.getLogger("thaw")
_LISTED = 4


@dataclass(frozen=True, slots=True, eq=False)
class OpenFile:
    """A file, open, and its header."""

    name: str
    source: Source
    header: Header


def select_listed(folder: Path, index: Index, files: Sequence[OpenFile]) -> list[OpenFile]:
    """Leave of each file the tensors that the index says come from there.

    Raises:
        ManifestError: the index contradicts its files: it says that a tensor lies in one, and it
            lies in another, or a file has none of its tensors.
    """
    path = folder / index.name
    listed: defaultdict[str, set[str]] = defaultdict(set)
    for name, place in index.weight_map.items():
        listed[place].add(name)
    kept = [_only(file, listed[file.name]) for file in files]
    found = {entry.name for file in kept for entry in file.header.entries}
    absent = [name for name in index.weight_map if name not in found]
    _check_absent(path, index, files, absent)
    if strangers := [file.name for file in kept if not file.header.entries]:
        raise checkpoint_error(
            "safetensors-index",
            f"{strangers[0]} has none of the tensors that are said to be there: is it the file of "
            "another checkpoint?",
            path=path,
        )
    _warn(path, files, found, absent)
    return kept


def _only(file: OpenFile, names: set[str]) -> OpenFile:
    entries = tuple(entry for entry in file.header.entries if entry.name in names)
    return replace(file, header=replace(file.header, entries=entries))


def _check_absent(path: Path, index: Index, files: Sequence[OpenFile], absent: list[str]) -> None:
    if not absent:
        return
    places = {entry.name: file.name for file in files for entry in file.header.entries}
    for name in absent:
        if name in places:
            raise checkpoint_error(
                "safetensors-index",
                f"tensor {name[:200]!r} is not in {index.weight_map[name]} but in {places[name]}",
                path=path,
            )


def _warn(path: Path, files: Sequence[OpenFile], found: set[str], absent: list[str]) -> None:
    """Log what is left out."""
    unlisted = [
        f"{entry.name!r} in {file.name}"
        for file in files
        for entry in file.header.entries
        if entry.name not in found
    ]
    if unlisted:
        _log.warning("%s: left out, since it does not list them: %s", path, _joined(unlisted))
    if absent:
        names = [repr(name) for name in absent]
        _log.warning("%s: left out, since no file has them: %s", path, _joined(names))


def _joined(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more
