"""The sessions of a folder: listed, marked as used, pruned; other processes may do it, too."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from time import monotonic

from .entries import Entry, is_current, read_entry
from .names import SUFFIX, safe_name
from .removing import remove, remove_leftovers
from .versions import find, marked_place

__all__ = ["RESCAN_S", "Entry", "Folder", "safe_name"]

RESCAN_S = 10.0
"""How long it goes unseen what a folder's time does not show, as what is written in place."""
_TICK_NS = 50_000_000
"""How far apart two changes are at least that have different times: file systems count in ticks."""


class Folder:
    """The sessions of a folder, `NAME.thaw` each: a file, or a folder of several ranks.

    What is hidden, unfinished or no session's name is not listed. An instance is for one thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._entries: tuple[Entry, ...] = ()
        self._known: dict[str, Entry] = {}
        self._inodes: dict[str, int] = {}
        self._stamp: tuple[int, ...] = ()
        self._is_settled = False
        self._scanned_s = -inf

    def changed(self) -> bool:
        """Say whether something else may be listed than the last time; it costs next to nothing."""
        return self._is_due() or not self._is_settled or self._stamp_now() != self._stamp

    def refresh(self) -> tuple[Entry, ...]:
        """List the sessions as servers do for every request.

        Sessions that come, go or are replaced by name are seen at once, what is written in place
        every ten seconds. Else as `scan`, but that a session which is used stays the same entry,
        and says when it was used as of the last scan.
        """
        if self._is_due():
            return self._list(every=True, uses=False)
        return self._list(every=False, uses=False) if self.changed() else self._entries

    def scan(self) -> tuple[Entry, ...]:
        """List the sessions by name; only what is new or another than before is opened.

        What cannot be read is an entry with an error. Nothing is listed of a folder that is not
        there.

        Returns:
            The very tuple of the last time, where nothing has changed.

        Raises:
            OSError: the folder cannot be listed.
        """
        return self._list(every=True, uses=True)

    def _list(self, *, every: bool, uses: bool) -> tuple[Entry, ...]:
        """List the sessions, and look at every one, or at those alone that have another inode."""
        # Taken before the folder is listed: what comes meanwhile has another time.
        stamp, now_s, now_ns = self._stamp_now(), monotonic(), time.time_ns()
        inodes = self._listed()
        self._stamp = stamp
        self._is_settled = not stamp or now_ns - stamp[-1] > _TICK_NS
        if every:
            self._scanned_s = now_s
        known, before = self._known, self._inodes
        kept = {} if every else known
        found = {
            name: kept[name]
            if name in kept and before[name] == inode
            else _entry(self.path, name, known.get(name), uses=uses)
            for name, inode in inodes.items()
        }
        self._inodes = inodes
        self._known = {name: entry for name, entry in found.items() if entry is not None}
        if self._known.keys() != known.keys() or any(
            entry is not known[name] for name, entry in self._known.items()
        ):
            self._entries = tuple(self._known[name] for name in sorted(self._known))
        return self._entries

    def touch(self, entry: Entry) -> None:
        """Mark that a session is used now, where that can be: files of other users say nothing."""
        with suppress(OSError):
            found = find(entry.path)
            if found is None or not is_current(entry, found):
                return
            fd = os.open(marked_place(entry.path, found), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.utime(fd, ns=(time.time_ns(), os.fstat(fd).st_mtime_ns))
            finally:
                os.close(fd)

    def prune(self, max_bytes: int, *, keep: Collection[str] = ()) -> tuple[Entry, ...]:
        """Remove sessions, oldest use first, until those that are left have so many bytes.

        What could not be read as a session is left alone, and not counted.

        Args:
            keep: names of sessions that stay.

        Returns:
            What was removed.

        Raises:
            OSError: sessions may not be removed, and those that are left have more bytes.
        """
        if self.path.is_dir():
            remove_leftovers(self.path)
        removed: list[Entry] = []
        failed, left = None, sum(each.nbytes for each in self._whole())
        for entry in self._oldest_first(keep):
            if left <= max_bytes:
                break
            try:
                if remove(entry.path, entry.version):
                    removed.append(entry)
            except OSError as error:
                failed = failed or error
            else:
                left -= entry.nbytes
        if failed is not None and left > max_bytes:
            raise failed
        return tuple(removed)

    def excess(self, max_bytes: int, *, keep: Collection[str] = ()) -> tuple[Entry, ...]:
        """List what `prune` would remove."""
        left = sum(each.nbytes for each in self._whole())
        found: list[Entry] = []
        for entry in self._oldest_first(keep):
            if left > max_bytes:
                found.append(entry)
                left -= entry.nbytes
        return tuple(found)

    def _whole(self) -> list[Entry]:
        return [each for each in self.scan() if each.error is None]

    def _oldest_first(self, keep: Collection[str]) -> list[Entry]:
        left = (each for each in self._whole() if each.name not in keep)
        return sorted(left, key=lambda each: (each.used, each.name))

    def _listed(self) -> dict[str, int]:
        """Return the names that sessions may have, with their inodes."""
        try:
            with os.scandir(self.path) as listed:
                return {each.name: each.inode() for each in listed if _is_named(each.name)}
        except FileNotFoundError:
            return {}

    def _is_due(self) -> bool:
        return monotonic() - self._scanned_s >= RESCAN_S

    def _stamp_now(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns


def _is_named(file: str) -> bool:
    return file.endswith(SUFFIX) and not file.startswith(".")


def _entry(folder: Path, name: str, known: Entry | None, *, uses: bool) -> Entry | None:
    """Return what is known of a session if it is current, and else read it."""
    path = folder / name if known is None else known.path
    with suppress(OSError):
        if (found := find(path)) is None:
            return None
        if known is not None and is_current(known, found):
            same = known.used == found.used or not uses
            return known if same else replace(known, used=found.used)
    return read_entry(path)
