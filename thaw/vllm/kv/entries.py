"""What is known of one session of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from thaw_format import JSON, FormatError, format_error, open_ranks

from .names import SUFFIX
from .record import Layer, Session, check_ranks
from .versions import Found, Version, every_version, find, nbytes_of

_TRIES = 3
_SHARED = 64
"""How many engines, and ranks of them, a folder has sessions of, about."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A session of a folder, or what has a session's name and is none.

    Attributes:
        name: without the ending.
        path: of the file, or the folder of several ranks.
        snapshot_id: of the file that was read. One that has its place by now has another: who
            opens it compares the two.
        sessions: one a rank, without the values of hashes; none if it is broken.
        nbytes: of all files.
        mtime: when it was frozen, in seconds since 1970.
        used: when it was last used, likewise; at first when it was frozen.
        error: why it cannot be used, in a line; None if it can.
        version: tells its file from another of its name.
    """

    name: str
    path: Path
    snapshot_id: str | None
    sessions: tuple[Session, ...]
    nbytes: int
    mtime: float
    used: float
    error: str | None = None
    version: Version = field(default=(), repr=False)

    @property
    def tokens(self) -> int:
        """How many there are; 0 if it is broken."""
        return self.sessions[0].tokens if self.sessions else 0


def read_entry(path: Path) -> Entry | None:
    """Read the headers of what has a session's name.

    Returns:
        None if it has gone, or is being written or replaced again and again.
    """
    for _ in range(_TRIES):
        try:
            # Looked at before it is opened: what is read is never older than what is said of it.
            if (found := find(path)) is None:
                return None
            every = every_version(path, found)
            entry = _read(path, found)
            if entry.error is None:
                return entry
            # One that is replaced meanwhile is half the old one and half the new.
            after = find(path)
            if after is not None and every == every_version(path, after):
                return replace(entry, version=every if entry.version else ())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            said = _line(path, error.filename, error.strerror or str(error))
            return Entry(_name(path), path, None, (), 0, 0.0, 0.0, said)
    return None


def is_current(entry: Entry, found: Found) -> bool:
    """Say whether an entry is of what was found in its place.

    Raises:
        OSError: it cannot be looked at, or has gone.
    """
    if entry.error is None:
        return entry.version == found.version
    return entry.version == every_version(entry.path, found)


def _read(path: Path, found: Found) -> Entry:
    plain = Entry(_name(path), path, None, (), 0, found.mtime, found.used, version=found.version)
    try:
        plain = replace(plain, nbytes=nbytes_of(path, found))
        identity, sessions = _open(path)
    except FormatError as error:
        why = f"{error.code}, {error.rule}" if error.rule else error.code
        return replace(plain, error=_line(path, error.path, f"{error.message} [{why}]"))
    except OSError as error:
        # It may be another time, and nothing of the file would tell.
        said = _line(path, error.filename, error.strerror or str(error))
        return replace(plain, error=said, version=())
    return replace(plain, snapshot_id=identity, sessions=sessions)


def _open(path: Path) -> tuple[str | None, tuple[Session, ...]]:
    with ExitStack() as stack:
        shards = [stack.enter_context(each) for each in open_ranks(path)]
        if (place := shards[0].shard).size != len(shards):
            raise format_error(
                "set-rank",
                f"is rank {place.rank} of {place.size} alone; the session is the folder of all",
            )
        sessions = [Session.of(each) for each in shards]
        check_ranks(sessions)
        return shards[0].snapshot_id, tuple(_kept(each, sessions[0]) for each in sessions)


def _kept(session: Session, first: Session) -> Session:
    """Keep what is needed once the file is closed; what many sessions say alike is kept once."""
    return replace(
        session,
        hashes=replace(session.hashes, values=b""),
        token_ids=first.token_ids,
        engine=_engine(json.dumps(session.engine)),
        layers=_layers(tuple(session.layers.items())),
        groups=tuple(replace(each, layers=_names(each.layers)) for each in session.groups),
    )


@lru_cache(_SHARED)
def _engine(text: str) -> Mapping[str, JSON]:
    found: Mapping[str, JSON] = json.loads(text)
    return found


@lru_cache(_SHARED)
def _layers(items: tuple[tuple[str, Layer], ...]) -> Mapping[str, Layer]:
    return dict(items)


@lru_cache(_SHARED)
def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    return names


def _name(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def _line(path: Path, where: str | os.PathLike[str] | None, text: str) -> str:
    """Write an error in a line, with the name of a file inside of the session's folder."""
    if where is not None and Path(where) != path:
        text = f"{Path(where).name}: {text}"
    return " ".join(text.split())
