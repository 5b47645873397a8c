"""The sessions of a folder, compared with an engine, and the one that serves a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from thaw_format import ThawError

from .binding import Binding, Difference, compare
from .entries import Entry, read_entry
from .folder import Folder
from .lookup import INPUTS, Candidate, Match, Sessions
from .misses import Misses, none_serves
from .names import path_of
from .requests import Adapters, Asked, inputs_of, token_bytes
from .settings import Settings

UNBOUND, FOLDER = "unbound", "folder"
_SPARE = 64
"""How many comparisons are kept of sessions that may have gone."""


class SessionIndex:
    """Finds sessions; each is compared with the engine once.

    Args:
        unit: the tokens that each group of layers has whole blocks of.
        ranks: how many have to say what sessions are bound to.
        misses: is told why sessions are not used.
        adapters: digests those of requests.

    Attributes:
        folder: what is listed.
        wants_binding: whether ranks are to be asked.
    """

    def __init__(
        self, settings: Settings, *, unit: int, ranks: int, misses: Misses, adapters: Adapters
    ) -> None:
        # As pins are named.
        self.folder = Folder(Path(settings.sessions).resolve())
        self._settings, self._unit, self._ranks = settings, unit, ranks
        self._misses, self._adapters = misses, adapters
        self._bindings: tuple[Binding, ...] | None = None
        self._heard: dict[int, Binding | str] = {}
        self._unbound = ""
        self._entries: tuple[Entry, ...] = ()
        self._sessions: Sessions | None = None
        self._compared: dict[tuple[object, ...], Difference | None] = {}
        self._failed: set[tuple[object, ...]] = set()
        self.wants_binding = False
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Read the folder while the engine starts, and ask ranks with the first step they take.

        Else the first request that a session serves would wait for both.
        """
        with suppress(OSError):
            self.wants_binding = any(each.sessions for each in self._listed())

    def match(self, request: Any, asked: Asked, most: int) -> Match | None:
        """Find the session that serves the most of a request; None while ranks are asked.

        Args:
            most: how many tokens may be served.
        """
        try:
            if asked.restore is not None:
                sessions = self._only(request, asked.restore)
            else:
                sessions = self._known()
        except OSError as error:
            return none_serves(FOLDER, f"{self.folder.path} cannot be listed: {error}")
        if sessions is None:
            return none_serves(UNBOUND, self._unbound) if self._unbound else None
        tokens = request.all_token_ids
        if not sessions.may_serve(token_bytes(tokens[: self._unit])):
            return Match()
        try:
            inputs = inputs_of(request, self._adapters)
        except OSError as error:
            return none_serves(INPUTS, str(error))
        return sessions.find(token_bytes(tokens), inputs, most)

    def hear(self, said: Mapping[int, Binding | str]) -> None:
        """Take what ranks say that sessions are bound to, or why they cannot say."""
        self._heard |= said
        if len(self._heard) < self._ranks:
            return
        heard = [self._heard[rank] for rank in sorted(self._heard)]
        self.wants_binding = False
        self._unbound = next((each for each in heard if isinstance(each, str)), "")
        if not self._unbound:
            self._bindings = tuple(each for each in heard if isinstance(each, Binding))

    def fail(self, entry: Entry) -> None:
        """Use a session no more, until it is another file."""
        self._failed.add(_version(entry))
        self._sessions = None

    def reset(self) -> None:
        """Forget what ranks have said: weights may be others by now."""
        self._bindings, self._heard, self._unbound = None, {}, ""
        self._sessions = None
        self._failed.clear()
        self._compared.clear()

    def path(self, name: str) -> Path:
        """Find the file of a session that a request names.

        Raises:
            ThawError: it may not name that.
        """
        return path_of(name, self._settings.sessions, any_path=self._settings.any_path)

    def _known(self) -> Sessions | None:
        """Return what the folder has, compared with this engine."""
        entries = self._listed()
        if self._sessions is None:
            found = [each for each in entries if _version(each) not in self._failed]
            if not any(each.sessions for each in found):
                # Nothing to compare: ranks need not be asked.
                return Sessions(self._unit, ())
            if not self._is_bound():
                return None
            self._sessions = Sessions(self._unit, self._candidates(found))
        return self._sessions

    def _listed(self) -> tuple[Entry, ...]:
        """List the folder; what was compared is compared anew if it has changed."""
        if (entries := self.folder.refresh()) is not self._entries:
            self._entries, self._sessions = entries, None
            self._misses.damaged(entries)
        return entries

    def _only(self, request: Any, name: str) -> Sessions | None:
        if not self._is_bound():
            return None
        try:
            entry = read_entry(self.path(name))
        except (ThawError, OSError, ValueError) as error:
            self._misses.note(request.request_id, name, str(error))
            return Sessions(self._unit, ())
        if entry is None or entry.error is not None:
            said = "there is no such session" if entry is None else entry.error
            self._misses.note(request.request_id, name, f"{name}: {said}")
            return Sessions(self._unit, ())
        return Sessions(self._unit, self._candidates([entry]))

    def _candidates(self, entries: Sequence[Entry]) -> list[Candidate]:
        """Compare sessions with this engine, each once."""
        assert self._bindings is not None
        known, whole = self._compared, [each for each in entries if each.sessions]
        for each in whole:
            if _version(each) not in known:
                known[_version(each)] = compare(each.sessions, self._bindings)
        if len(known) > 2 * len(self._entries) + _SPARE:
            current = {_version(each) for each in (*self._entries, *whole)}
            self._compared = {key: found for key, found in known.items() if key in current}
        return [Candidate(each, known[_version(each)]) for each in whole]

    def _is_bound(self) -> bool:
        """Say whether ranks have said what sessions are bound to; they are asked, if not."""
        self.wants_binding = self._bindings is None and not self._unbound
        return self._bindings is not None


def _version(entry: Entry) -> tuple[object, ...]:
    """Tell a session from another of its name, whenever they were used."""
    return entry.path, entry.snapshot_id, entry.version
