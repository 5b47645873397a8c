"""What becomes of a freeze beyond its ranks: the folder they write to, its name, and the room."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from thaw_format import ThawError, find_staged, make_staging_folder, staging_folder

from ...freezing import finish_ranks
from .folder import Folder

_log = logging.getLogger("vllm.thaw")


class Sealing:
    """Makes one snapshot of what the ranks of an engine have frozen, on a thread of its own.

    Args:
        folder: that of the sessions.
        ranks: how many there are; a single one seals its file by itself.
        max_bytes: how large the folder may become; 0 for any size.
    """

    def __init__(self, folder: Path, *, ranks: int, max_bytes: int) -> None:
        # Beside that of lookups: an instance is for one thread.
        self._folder = Folder(folder)
        self._ranks, self._max_bytes = ranks, max_bytes
        self._locked: dict[str, int] = {}
        self._thread = ThreadPoolExecutor(1, "thaw-seal")

    def begin(self, path: Path, snapshot_id: str) -> None:
        """Make the folder that ranks write to; remove those that engines left which have ended.

        Raises:
            OSError: it cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._ranks == 1:
            return
        for left in find_staged(path).values():
            _remove_abandoned(left)
        self._locked[snapshot_id] = _make(path, snapshot_id)

    def end(self, path: Path, snapshot_id: str, *, failed: bool) -> None:
        """Give what all ranks have frozen its name, or remove it if one has failed."""
        self._thread.submit(self._end, path, snapshot_id, failed)

    def close(self) -> None:
        self._thread.shutdown()

    def _end(self, path: Path, snapshot_id: str, failed: bool) -> None:
        try:
            if self._ranks > 1 and not failed:
                finish_ranks(path, snapshot_id=snapshot_id)
        except (ThawError, OSError) as error:
            failed = True
            _log.warning("the freeze of session %s failed: %s", path, error)
        finally:
            if self._ranks > 1:
                shutil.rmtree(staging_folder(path, snapshot_id), ignore_errors=True)
            if (fd := self._locked.pop(snapshot_id, None)) is not None:
                os.close(fd)
        if not failed and self._max_bytes:
            self._prune(path)

    def _prune(self, path: Path) -> None:
        try:
            for each in self._folder.prune(self._max_bytes, keep=(path.stem,)):
                _log.info("removed session %s: the folder was full", each.name)
        except OSError as error:
            _log.warning("%s has more than %d bytes: %s", path.parent, self._max_bytes, error)


def _make(path: Path, snapshot_id: str) -> int:
    """Make a folder that is locked for as long as this process lives and has it open."""
    while True:
        staged = make_staging_folder(path, snapshot_id)
        with suppress(FileNotFoundError):
            fd = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
            # Another engine may have taken it for an abandoned one: wait until that is removed.
            # A file system without locks has no such engines.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)


def _remove_abandoned(staged: Path) -> None:
    """Remove a folder that no living engine has locked."""
    with suppress(OSError):
        fd = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staged, ignore_errors=True)
        finally:
            os.close(fd)
