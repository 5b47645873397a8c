"""Which files a path named once, to know later whether it still names them, unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from ..errors import MismatchError

_HEAD_NBYTES = 4096
_DESCRIPTIONS = ".json"
"""The ending of the files that say which others belong to a folder's snapshot."""


class OpenFile(Protocol):
    """A file that is held open."""

    @property
    def path(self) -> Path: ...

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file, and when it was written to last."""

    device: int
    inode: int
    nbytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take what tells a file from others, and from what it was before."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open file: its path, what it was, and its first bytes, where its header is."""

    path: str
    file: OpenFile
    identity: FileIdentity
    head: bytes

    @classmethod
    def of(cls, file: OpenFile) -> Self:
        identity = FileIdentity.of(os.fstat(file.fileno()))
        return cls(os.path.abspath(file.path), file, identity, _head(file))

    def check(self) -> None:
        _compare(self.path, self.identity, _identity(self.path))
        if _head(self.file) != self.head:
            raise _stale(self.path, "was written to")


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder: what in it a snapshot may be made of, and what each file was."""

    path: str
    suffixes: tuple[str, ...]
    files: Mapping[str, FileIdentity]

    @classmethod
    def of(cls, path: str, suffixes: tuple[str, ...]) -> Self:
        return cls(path, suffixes, _files(path, suffixes))

    def check(self) -> None:
        found = _files(self.path, self.suffixes)
        for path in sorted({*self.files, *found}):
            if path not in self.files:
                raise _stale(path, "was added")
            _compare(path, self.files[path], found.get(path))


@dataclass(frozen=True, slots=True)
class PathIdentity:
    """What paths named when the files behind them were opened."""

    opened: tuple[_Opened, ...]
    folders: tuple[_Folder, ...]

    @classmethod
    def of(cls, paths: Iterable[str | os.PathLike[str]], files: Iterable[OpenFile]) -> Self:
        """Remember open files, and of the paths those that are folders."""
        opened = tuple(_Opened.of(file) for file in files)
        suffixes = tuple({os.path.splitext(each.path)[1] for each in opened} | {_DESCRIPTIONS})
        folders = dict.fromkeys(os.path.abspath(path) for path in paths if os.path.isdir(path))
        return cls(opened, tuple(_Folder.of(path, suffixes) for path in folders))

    def check(self) -> None:
        """Compare with what is there now.

        Raises:
            MismatchError: a path names another file, or none, or the file was written to.
        """
        for file in self.opened:
            file.check()
        for folder in self.folders:
            folder.check()


def _head(file: OpenFile) -> bytes:
    return os.pread(file.fileno(), _HEAD_NBYTES, 0)


def _identity(path: str) -> FileIdentity | None:
    try:
        return FileIdentity.of(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _files(folder: str, suffixes: tuple[str, ...]) -> dict[str, FileIdentity]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        raise _stale(folder, "is gone") from None
    paths = (os.path.join(folder, name) for name in names if name.endswith(suffixes))
    return {path: found for path in paths if (found := _identity(path)) is not None}


def _compare(path: str, before: FileIdentity, now: FileIdentity | None) -> None:
    if now is None:
        raise _stale(path, "is gone")
    if (before.device, before.inode) != (now.device, now.inode):
        raise _stale(path, "was replaced by another file")
    if before != now:
        raise _stale(path, "was written to")


def _stale(path: str, what: str) -> MismatchError:
    return MismatchError(f"{path}: {what} since it was pinned: unpin it and pin it again")
