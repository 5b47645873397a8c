"""Files that appear under their final name only when they are whole (specification, section 11)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .replacing import naming_renames, place_of, status_of, take_access
from .source import FileTarget

_SUFFIX = ".partial"
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial", re.DOTALL)


@contextmanager
def sealed(path: str | os.PathLike[str]) -> Iterator[FileTarget]:
    """Open a new file in the folder of `path`; give it that name if the block ends well.

    An existing file of the name stays whole until then, and the new one takes over its mode; a
    symbolic link of the name is replaced, and what it leads to is left alone. Files that killed
    writers to the same name left behind are removed.

    Raises:
        OSError: the folder is missing, not writable or full, or its file system does not rename;
            nothing is left behind.
    """
    final = place_of(path)
    status = status_of(final)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if status is not None and not stat.S_ISREG(status.st_mode):
        # A device or a pipe would be replaced by a file.
        raise OSError(errno.EINVAL, "exists and is no regular file", os.fspath(path))
    _remove_abandoned(final)
    partial, fd = _create(final)
    try:
        yield FileTarget(final, fd)
        take_access(fd, final)
        os.fsync(fd)
        with naming_renames(final):
            os.rename(partial, final)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    finally:
        os.close(fd)
    sync_folder(final.parent)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a small file so that it appears whole or not at all."""
    with sealed(path) as target:
        _write_all(target.fileno(), data, 0)


def write_at(target: FileTarget, data: bytes, offset: int) -> None:
    """Write bytes at an offset of a file that is being made."""
    _write_all(target.fileno(), data, offset)


def flush(target: FileTarget) -> None:
    """Bring what has been written to the device."""
    os.fsync(target.fileno())


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _create(final: Path) -> tuple[Path, int]:
    while True:
        partial = final.with_name(f"{_prefix(final)}{secrets.token_hex(4)}{_SUFFIX}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(partial, flags, 0o600 if final.exists() else 0o666)
        # Another writer may have taken the new file for an abandoned one before it was locked: wait
        # until it has removed it. A file system without locks has no such writers.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return partial, fd
        os.close(fd)


def _prefix(final: Path) -> str:
    """Begin the names of partial files: a file system limits their bytes, not their characters."""
    return f".{os.fsdecode(os.fsencode(final.name)[:200])}."


def _remove_abandoned(final: Path) -> None:
    """Remove partial files of this name that no living writer holds locked."""
    prefix = _prefix(final)
    for name in os.listdir(final.parent):
        middle = name[len(prefix) : -len(_SUFFIX)]
        if not (name.startswith(prefix) and name.endswith(_SUFFIX) and len(middle) == 8):
            continue
        with suppress(OSError):
            _unlink_if_unlocked(final.parent / name)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed writers left in a folder: partial files that no living one holds locked.

    Raises:
        OSError: the folder cannot be listed.
    """
    for name in os.listdir(folder):
        if _PARTIAL.fullmatch(name):
            with suppress(OSError):
                _unlink_if_unlocked(folder / name)


def _unlink_if_unlocked(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the device."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
