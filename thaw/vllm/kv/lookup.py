"""Which session of a folder serves a request, and how far: by token ids, compared one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from .binding import Difference
from .entries import Entry
from .parts import STATE
from .record import Group, Session
from .requests import Inputs

INPUTS, WINDOW, STATES = "inputs", "window", "state"
_ITEM = 4
"""The bytes of a token id."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A session, and why it is not one of this engine, if it is not."""

    entry: Entry
    difference: Difference | None

    @property
    def path(self) -> str:
        return os.fspath(self.entry.path)

    @property
    def snapshot_id(self) -> str:
        return str(self.entry.snapshot_id)

    @property
    def session(self) -> Session:
        """What its first rank says; that is what all have in common."""
        return self.entry.sessions[0]


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The session that serves the most tokens of a request.

    Attributes:
        tokens: how many it serves; 0 if none does.
        missed: why others, that begin like the request, do not serve it.
        hidden: the same of those whose salt is another one: a request is not told of them, since
            it would learn by that how they begin.
    """

    candidate: Candidate | None = None
    tokens: int = 0
    missed: tuple[tuple[str, Difference], ...] = ()
    hidden: tuple[tuple[str, Difference], ...] = ()


class Sessions:
    """The sessions that an engine may use, by how they begin.

    Args:
        unit: the tokens that each group of layers has whole blocks of.
    """

    def __init__(self, unit: int, candidates: Iterable[Candidate]) -> None:
        self._unit = unit * _ITEM
        self._by_start: dict[bytes, list[Candidate]] = {}
        for each in candidates:
            start = each.session.token_ids[: self._unit]
            if len(start) == self._unit:
                self._by_start.setdefault(start, []).append(each)

    def may_serve(self, start: bytes) -> bool:
        """Say whether any session begins with these tokens, of which a unit is enough."""
        return start[: self._unit] in self._by_start

    def find(self, tokens: bytes, inputs: Inputs, most: int) -> Match:
        """Find the session that serves the most tokens of a request.

        Args:
            tokens: of the request, as `token_bytes` says them.
            most: how many may be served.
        """
        unit = self._unit
        limit = most * _ITEM // unit * unit
        best: Candidate | None = None
        served = 0
        missed: list[tuple[str, Difference]] = []
        hidden: list[tuple[str, Difference]] = []
        for each in self._by_start.get(tokens[:unit], ()):
            theirs = each.session.token_ids
            end = min(limit, len(theirs) // unit * unit)
            # What serves more than the best so far has to be like the request right behind it.
            if end <= served or theirs[served : served + unit] != tokens[served : served + unit]:
                continue
            common = _common(theirs, tokens, served + unit, end, unit)
            if common <= served:
                continue
            common = min(common, _alike(each.session, inputs) * _ITEM // unit * unit)
            if why := each.difference or _difference(each.session, inputs, common, served):
                is_hidden = each.session.salt_sha256 != inputs.salt_sha256
                (hidden if is_hidden else missed).append((each.path, why))
            else:
                best, served = each, common
        return Match(best, served // _ITEM, tuple(missed), tuple(hidden))


def _common(one: bytes, other: bytes, begin: int, end: int, unit: int) -> int:
    """Return how many bytes, in units up to `end`, are the same, by halving."""
    if one[:begin] != other[:begin]:
        return 0
    least, most = begin // unit, end // unit
    while least < most:
        middle = -(-(least + most) // 2)
        if one[least * unit : middle * unit] == other[least * unit : middle * unit]:
            least = middle
        else:
            most = middle - 1
    return least * unit


def _alike(session: Session, inputs: Inputs) -> int:
    """Return how many tokens of a session have the same images and the like as a request."""
    for pair in zip_longest(session.media, inputs.media):
        if pair[0] != pair[1]:
            return min(each.offset for each in pair if each is not None)
    return session.tokens


def _difference(session: Session, inputs: Inputs, common: int, served: int) -> Difference | None:
    """Say why a session does not serve a request that begins with its tokens.

    Args:
        common: the bytes of token ids at which both are alike.
        served: as many are served without it.
    """
    for name, theirs, ours in (
        ("the adapter", session.adapter, inputs.adapter),
        ("the cache salt", session.salt_sha256, inputs.salt_sha256),
    ):
        if theirs != ours:
            return Difference(INPUTS, f"{name} of the request differs")
    if common <= served:
        return Difference(INPUTS, "images and the like of the request differ")
    tokens = common // _ITEM
    for group in session.groups:
        begin = group.first_block * group.block_tokens
        if begin <= _needed(group, tokens):
            continue
        if group.kind == STATE:
            why, has = STATES, f"its first state is of {begin + group.block_tokens} tokens"
        else:
            why = WINDOW
            has = (
                f"of its sliding window of {group.window} tokens there is only the end, behind "
                f"token {begin}"
            )
        return Difference(why, f"{has}: it serves requests that begin with all of it")
    return None


def _needed(group: Group, tokens: int) -> int:
    """Return the first token whose block is needed to serve so many."""
    if group.kind == STATE:
        return tokens - group.block_tokens
    return 0 if group.window is None else max(0, tokens - group.window + 1)
