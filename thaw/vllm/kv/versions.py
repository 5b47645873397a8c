"""What tells the file of a session from another that has its name now."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple, TypeAlias

from thaw_format import INDEX_NAME

Version: TypeAlias = tuple[int, ...]


class Found(NamedTuple):
    """What has a session's name: a file, or the folder of several ranks.

    Attributes:
        version: of the file, or of the folder and its snapshot.json; a use that is marked leaves
            it as it is.
        mtime: when it was frozen, in seconds since 1970.
        used: when it was last used, likewise.
        is_folder: whether it is of several ranks.
    """

    version: Version
    mtime: float
    used: float
    is_folder: bool


def find(path: Path, status: os.stat_result | None = None) -> Found | None:
    """Look at what has a name, without opening it; None if nothing whole has it.

    Args:
        status: of the path, where it is known.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        status = status or os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return _found(status, _version(status))
        index = os.stat(path / INDEX_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    folder = (status.st_dev, status.st_ino, status.st_mtime_ns)
    return _found(index, (*folder, *_version(index)), is_folder=True)


def marked_place(path: Path, found: Found) -> Path:
    """Name the file whose access time says when a session was used."""
    return path / INDEX_NAME if found.is_folder else path


def every_version(path: Path, found: Found) -> Version:
    """Tell a session from another also by the files of all its ranks.

    Raises:
        OSError: it cannot be looked at, or has gone.
    """
    return (*found.version, *(each for status in _files(path, found) for each in _version(status)))


def nbytes_of(path: Path, found: Found) -> int:
    """Sum up the bytes of a session's files.

    Raises:
        OSError: they cannot be looked at, or have gone.
    """
    return sum(status.st_size for status in _files(path, found))


def _files(path: Path, found: Found) -> list[os.stat_result]:
    if not found.is_folder:
        return [os.stat(path)]
    with os.scandir(path) as listed:
        return [each.stat() for each in sorted(listed, key=lambda each: each.name)]


def _found(status: os.stat_result, version: Version, *, is_folder: bool = False) -> Found:
    used = max(status.st_atime, status.st_mtime)
    return Found(version, status.st_mtime, used, is_folder)


def _version(status: os.stat_result) -> Version:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
