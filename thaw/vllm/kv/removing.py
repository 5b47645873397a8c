"""Sessions that are removed so that nobody sees half of one."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from thaw_format.sealing import remove_abandoned

from .versions import Version, find

_ENDING = ".removed"
_ABANDONED_S = {"removed": 60.0, "partial": 86400.0}
"""How long nobody must have touched what has such an ending; ranks wait for each other in folders
that nobody holds locked."""


def remove(path: Path, version: Version) -> bool:
    """Remove a session, if what has its name is still of a version; else say no.

    Processes that have it open go on to read it.

    Raises:
        OSError: it may not be removed.
    """
    found = find(path)
    if found is None or found.version != version:
        return False
    hidden = _hidden(path)
    try:
        os.rename(path, hidden)
    except FileNotFoundError:
        return False
    # It was replaced between the two steps: then it is not what was to be removed.
    taken = find(hidden)
    if taken is None or taken.version != version:
        _give_back(hidden, path)
        return False
    _delete(hidden)
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that ended meanwhile were writing or removing.

    Raises:
        OSError: the folder cannot be listed.
    """
    remove_abandoned(folder)
    for name in os.listdir(folder):
        if name.startswith(".") and (ending := name.rpartition(".")[2]) in _ABANDONED_S:
            _delete_unchanged(folder / name, _ABANDONED_S[ending])


def _delete_unchanged(hidden: Path, seconds: float) -> None:
    """Delete what nobody has written to for some time."""
    with suppress(FileNotFoundError):
        times = [hidden.lstat().st_ctime]
        if hidden.is_dir() and not hidden.is_symlink():
            times += (each.lstat().st_ctime for each in hidden.iterdir())
        elif hidden.suffix != _ENDING:
            return
        if time.time() - max(times) > seconds:
            _delete(hidden)


def _hidden(path: Path) -> Path:
    # A file system limits the bytes of a name, not its characters.
    begin = os.fsdecode(os.fsencode(path.name)[:200])
    return path.with_name(f".{begin}.{secrets.token_hex(4)}{_ENDING}")


def _give_back(hidden: Path, path: Path) -> None:
    """Give something its name again, unless what came later has it."""
    with suppress(OSError):
        if hidden.is_dir():
            # No folder that holds anything is replaced.
            os.rename(hidden, path)
        elif not os.path.lexists(path):
            os.rename(hidden, path)
    _delete(hidden)


def _delete(hidden: Path) -> None:
    if hidden.is_dir() and not hidden.is_symlink():
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        hidden.unlink(missing_ok=True)
