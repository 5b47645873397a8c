"""Temporary."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thaw_format import open_ranks

from .record import Session


@dataclass(frozen=True)
class Entry:
    name: str
    path: Path
    snapshot_id: str | None
    sessions: tuple[Session, ...]
    nbytes: int = 0
    error: str | None = None


def read_entry(path: Path) -> Entry | None:
    shards = open_ranks(path)
    try:
        return Entry(
            path.stem, path, shards[0].snapshot_id, tuple(Session.of(each) for each in shards)
        )
    finally:
        for each in shards:
            each.close()


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[Path, tuple[tuple[int, int], Entry]] = {}
        self._last: tuple[Entry, ...] = ()

    def changed(self) -> bool:
        return True

    def scan(self) -> tuple[Entry, ...]:
        found = {}
        for path in sorted(self.path.glob("*.thaw")):
            s = os.stat(path)
            key = (s.st_ino, s.st_mtime_ns)
            if path in self._entries and self._entries[path][0] == key:
                found[path] = self._entries[path]
            else:
                with suppress(Exception):
                    found[path] = (key, read_entry(path))
        entries = tuple(e for _, e in found.values())
        if len(entries) != len(self._last) or any(a is not b for a, b in zip(entries, self._last)):
            self._last = entries
        self._entries = found
        return self._last

    def touch(self, entry: Entry) -> None: ...

    def prune(self, max_bytes, *, keep=()):
        return ()


def safe_name(name):
    return f"{name}.thaw"
