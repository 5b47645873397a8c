"""Why sessions serve no request: counted, logged once, and told to the request when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .binding import Difference
from .counts import Counts
from .entries import Entry
from .lookup import Match

DAMAGED = "damaged"
_log = logging.getLogger("vllm.thaw")


class Misses:
    """What is said of sessions that do not serve requests."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._reasons: dict[str, dict[str, str | None]] = {}
        self._said: set[tuple[str, str]] = set()

    def miss(
        self, request_id: str, path: str, difference: Difference, *, is_told: bool = True
    ) -> None:
        """Count, once for a request, that a session does not serve it, and say why.

        Args:
            path: of the session; empty if it is about all of them.
            is_told: whether the request is told, or the log alone.
        """
        if path in self._reasons.get(request_id, ()):
            return
        line = difference.line
        self._counts.miss(difference.reason)
        self.note(request_id, path, (f"{path}: {line}" if path else line) if is_told else None)
        self._log(path, f"session {path} is not used" if path else "no session is used", line)

    def note(self, request_id: str, path: str, line: str | None) -> None:
        """Keep for a request why a session does not serve it, or that it is not to be told."""
        self._reasons.setdefault(request_id, {}).setdefault(path, line)

    def damaged(self, entries: Iterable[Entry]) -> None:
        """Count and log, once each, the sessions that cannot be read."""
        for each in entries:
            if each.error is not None and (each.name, each.error) not in self._said:
                self._counts.miss(DAMAGED)
                self._log(each.name, f"session {each.path} cannot be used", each.error)

    def take(self, request_id: str) -> str | None:
        """Return the first reason that there was for a request, and forget it."""
        found = self._reasons.pop(request_id, {})
        return next(filter(None, found.values()), None)

    def _log(self, name: str, what: str, line: str) -> None:
        if (name, line) not in self._said:
            self._said.add((name, line))
            _log.warning("%s: %s", what, line)


def none_serves(reason: str, line: str) -> Match:
    """Say why no session at all serves a request."""
    return Match(missed=(("", Difference(reason, line)),))
