"""Where a launcher listens: a socket in a folder that is its user's alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thaw_format import ThawError

_NAME_DIGITS = 16


def socket_path() -> Path:
    """Return the socket of this Python environment's launcher, in a folder with mode 0700.

    Raises:
        ThawError: the folder is someone else's, or others may enter it.
    """
    folder = _runtime_folder()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ThawError(f"{folder} is no folder of user {os.geteuid()}: no launcher is used")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ThawError(f"others may enter {folder}: no launcher is used; chmod 700 it")
    name = hashlib.sha256(
        os.fsencode(f"{sys.prefix}\0{os.path.realpath(sys.executable)}")
    ).hexdigest()
    return folder / f"launcher-{name[:_NAME_DIGITS]}.sock"


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Name a socket by its folder's descriptor: its whole path may be longer than one may be."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold the place of a launcher as long as this process lives; say whether it was free."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    owner, is_ours = os.getpid(), False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        yield is_ours
    finally:
        if is_ours and os.getpid() == owner:
            path.unlink(missing_ok=True)
        os.close(lock)


def _runtime_folder() -> Path:
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given, "thaw")
    return Path(f"/tmp/thaw-{os.geteuid()}")
