"""Folders that appear under their final name only when every rank's file is there."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from .index import INDEX_NAME
from .ranks import RANK_FILES
from .replacing import naming_renames, place_of, status_of, take_access
from .sealing import sync_folder

_SUFFIX = ".partial"
_HEX = frozenset("0123456789abcdef")
_CURRENT_FOLDER, _EXCHANGE = -100, 2
_TRIES = 100
_OVERTAKEN = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def staging_folder(path: str | os.PathLike[str], snapshot_id: str) -> Path:
    """Name the folder, beside a path, in which the ranks of a snapshot write their files."""
    final = place_of(path)
    return final.with_name(f"{_prefix(final)}{snapshot_id}{_SUFFIX}")


def find_staged(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Find the folders in which snapshots wait for a path's name, by snapshot id."""
    final = place_of(path)
    prefix = _prefix(final)
    found = {}
    for name in sorted(os.listdir(final.parent)):
        identity = name[len(prefix) : -len(_SUFFIX)]
        whole = name.startswith(prefix) and name.endswith(_SUFFIX)
        if whole and len(identity) == 32 and _HEX.issuperset(identity):
            found[identity] = final.parent / name
    return found


def make_staging_folder(path: str | os.PathLike[str], snapshot_id: str) -> Path:
    """Make the folder in which the ranks of a snapshot write, if another rank has not.

    Raises:
        FileExistsError: what has the path's name is no snapshot, and would be lost.
        OSError: the folder cannot be made.
    """
    final = place_of(path)
    check_replaceable(final)
    staged = staging_folder(final, snapshot_id)
    # Never more open than the folder that it will replace.
    staged.mkdir(0o700 if final.exists() else 0o777, exist_ok=True)
    return staged


def check_replaceable(final: Path) -> None:
    """Make sure that a name, if it is taken, is that of a snapshot, whole or not.

    Raises:
        FileExistsError: it is a folder of other things.
    """
    if final.is_symlink():
        return
    try:
        names = sorted(os.listdir(final))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        is_ours = name == INDEX_NAME or PurePath(name).match(RANK_FILES)
        if not is_ours and not (name.startswith(".") and name.endswith(_SUFFIX)):
            raise FileExistsError(
                errno.EEXIST,
                f"is a folder that holds {name!r}, which is no part of a snapshot; name another, "
                "or remove it",
                os.fspath(final),
            )


def seal_folder(staged: Path, final: Path, files: Iterable[Path]) -> None:
    """Give a folder its final name, in place of what has it; `files` are all that it keeps.

    Where the file system can, the two are exchanged in one step. Elsewhere the old one is moved
    aside, and between two renames the name is nobody's.

    Raises:
        OSError: the rename is refused; what had the name still has it.
    """
    check_replaceable(final)
    kept = set(files)
    for each in set(staged.iterdir()) - kept:
        each.unlink()
    _take_accesses(staged, final, kept)
    with naming_renames(final):
        old = _exchange(staged, final)
    sync_folder(final.parent)
    if old is not None:
        _remove(old)


def _take_accesses(staged: Path, final: Path, files: Iterable[Path]) -> None:
    """Let no one read the new folder and its files who could not read the old ones."""
    if (status := status_of(final)) is None:
        return
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        _take_access(staged, final)
        shards = sorted(final.glob(RANK_FILES))
    else:
        staged.chmod(mode & 0o666 | (mode & 0o444) >> 2)
        shards = [final]
    for each in files if shards else ():
        _take_access(each, shards[0])


def _take_access(new: Path, old: Path) -> None:
    fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        take_access(fd, old)
    finally:
        os.close(fd)


def _exchange(staged: Path, final: Path) -> Path | None:
    """Rename, and return where the old one is now, if there was one."""
    for _ in range(_TRIES):
        try:
            if os.path.lexists(final):
                return _replace(staged, final)
            os.rename(staged, final)
            return None
        except OSError as error:
            # Another process has given the name to something else meanwhile, or to nothing.
            if error.errno not in _OVERTAKEN or not staged.exists():
                raise
    raise OSError(errno.EBUSY, "is replaced and removed again and again", os.fspath(final))


def _replace(staged: Path, final: Path) -> Path:
    if _renameat2 is not None:
        names = os.fsencode(staged), os.fsencode(final)
        if not _renameat2(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE):
            return staged
        if (code := ctypes.get_errno()) not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code), os.fspath(final))
    aside = final.with_name(f"{_prefix(final)}{secrets.token_hex(4)}.replaced")
    os.rename(final, aside)
    try:
        os.rename(staged, final)
    except BaseException:
        with _unless_overtaken():
            os.rename(aside, final)
        raise
    return aside


@contextmanager
def _unless_overtaken() -> Iterator[None]:
    """Leave a name to what another process has given it to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OVERTAKEN:
            raise


def _remove(old: Path) -> None:
    if stat.S_ISDIR(os.lstat(old).st_mode):
        shutil.rmtree(old)
    else:
        old.unlink()


def _prefix(final: Path) -> str:
    """Begin the names of staging folders: a file system limits their bytes, not characters."""
    return f".{os.fsdecode(os.fsencode(final.name)[:200])}."
