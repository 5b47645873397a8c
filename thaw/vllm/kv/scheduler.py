"""The scheduler's side of the connector: which session serves a request, and what is frozen."""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw_format import ThawError

from . import releases
from .binding import Binding, Difference, compare
from .counts import Counts
from .entries import Entry, read_entry
from .folder import Folder
from .layout import Blocks
from .lookup import INPUTS, Candidate, Match, Sessions
from .misses import Misses, none_serves
from .names import path_of
from .orders import Answers, Freeze, Load, Moved, Orders
from .record import Hashes
from .requests import Adapters, Asked, inputs_of, token_bytes
from .sealing import Sealing
from .settings import Settings

UNBOUND, FOLDER = "unbound", "folder"
_NULL_BLOCK = 0
"""The number of the block that stands where a sliding window has passed."""
_EMBEDDED = Difference(INPUTS, "the request has prompt embeddings")

_SPARE = 64
"""How many comparisons are kept of sessions that may have gone."""

_log = logging.getLogger("vllm.thaw")


@dataclass(slots=True, eq=False)
class Loading:
    """A load under way: tokens of a session that others may wait for.

    Attributes:
        external: how many of the tokens are loaded.
        is_wanted: whether its request has not ended.
        has_failed: whether it failed on a rank.
    """

    candidate: Candidate
    tokens: int
    external: int
    is_wanted: bool = True
    has_failed: bool = False


class SessionScheduler:
    """Decides, for each request, what is loaded and frozen; workers do it.

    Args:
        block_tokens: of each group of layers.
        hash_tokens: how many tokens a hash of vLLM's covers.
        algorithm: of those hashes.
        world_size: how many ranks there are.
        held_back: how many tokens at the end of a prefix drafting needs to compute again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        block_tokens: Sequence[int],
        hash_tokens: int,
        algorithm: str,
        world_size: int,
        held_back: int = 0,
    ) -> None:
        self.counts = Counts()
        self._misses = Misses(self.counts)
        self._settings = settings
        self._folder = Folder(Path(settings.sessions))
        self._block_tokens, self._hash_tokens = tuple(block_tokens), hash_tokens
        self._unit = math.lcm(hash_tokens, *block_tokens)
        self._algorithm, self._world_size, self._held_back = algorithm, world_size, held_back
        self._adapters = Adapters()
        self._bindings: tuple[Binding, ...] | None = None
        self._heard: dict[int, Binding | str] = {}
        self._asked_for_binding = self._was_reset = False
        self._unbound = ""
        self._pool: Any = None
        self._entries: tuple[Entry, ...] = ()
        self._sessions: Sessions | None = None
        self._compared: dict[tuple[object, ...], Difference | None] = {}
        self._failed: set[tuple[object, ...]] = set()
        self._gave_up: set[str] = set()
        self._matches: dict[str, Match] = {}
        self._loading: dict[str, Loading] = {}
        self._freezing: dict[str, Freeze] = {}
        self._answers: dict[str, list[Moved]] = {}
        self._orders = Orders()
        self._look_ahead()
        self._sealing = Sealing(self._folder.path, ranks=world_size, max_bytes=settings.max_bytes)

    def _look_ahead(self) -> None:
        """Read the folder while the engine starts, and ask ranks with the first step they take.

        Else the first request that a session serves would wait for both.
        """
        with suppress(OSError):
            self._asked_for_binding = any(each.sessions for each in self._listed())

    # What vLLM's scheduler asks

    def bind_pool(self, pool: Any) -> None:
        """Take vLLM's pool of blocks, which tells whether any is in use."""
        self._pool = pool

    def matched_tokens(self, request: Any, computed: int) -> int | None:
        """Say how many tokens beyond those that are computed a session serves; None: ask again."""
        self._matches.pop(request.request_id, None)
        self._adapters.note(request)
        try:
            asked = Asked.of(request.kv_transfer_params)
        except ValueError as error:
            self._misses.note(request.request_id, "", str(error))
            return 0
        if asked.skip or request.request_id in self._gave_up or request.skip_reading_prefix_cache:
            return 0
        if request.prompt_embeds is not None:
            self._misses.miss(request.request_id, "", _EMBEDDED)
            return 0
        most = (request.num_tokens - 1) // self._unit * self._unit - self._held_back
        if most <= computed and asked.restore is None:
            return 0
        found = self._match(request, asked, most)
        if found is None or (found.tokens > computed and self._is_under_way(found, computed)):
            return None
        for path, difference in found.missed:
            self._misses.miss(request.request_id, path, difference)
        if found.tokens <= computed:
            return 0
        self._matches[request.request_id] = found
        return found.tokens - computed

    def allocated(
        self, request: Any, block_ids: Sequence[Sequence[int]], external_tokens: int
    ) -> None:
        """Order the load of a request's blocks, now that it has some."""
        found = self._matches.pop(request.request_id, None)
        if not external_tokens or found is None or found.candidate is None:
            return
        computed = found.tokens - external_tokens
        groups = tuple(
            _between(ids, computed // size, found.tokens // size, group.first_block)
            for ids, size, group in zip(
                block_ids, self._block_tokens, found.candidate.session.groups, strict=True
            )
        )
        candidate = found.candidate
        order = Load(request.request_id, candidate.path, candidate.snapshot_id, groups)
        self._orders.loads.append(order)
        self._loading[request.request_id] = Loading(candidate, found.tokens, external_tokens)
        self._misses.take(request.request_id)
        self._folder.touch(candidate.entry)

    def take_orders(self) -> Orders:
        """Return what workers have to do in this step."""
        orders, self._orders = self._orders, Orders()
        orders.wants_binding = self._bindings is None and self._asked_for_binding
        orders.reset, self._was_reset = self._was_reset, False
        return orders

    def hear(self, answers: Answers) -> None:
        """Take what workers answered."""
        if answers.bindings:
            self._heard |= answers.bindings
            self._bind()
        for request_id, moved in answers.loads.items():
            if loading := self._loading.get(request_id):
                self._heard_load(request_id, loading, moved)
        for request_id, moved in answers.freezes.items():
            self._answers.setdefault(request_id, []).extend(moved)
            if len(self._answers[request_id]) == self._world_size:
                self._frozen(request_id, self._answers.pop(request_id))

    def received(self, request_id: str) -> None:
        """Take note that all ranks have ended the load of a request."""
        loading = self._loading.pop(request_id, None)
        if loading is not None and not loading.has_failed:
            self.counts.add("load_tokens", loading.external)

    def finished(
        self, request: Any, block_ids: Sequence[Sequence[int]], ended_well: bool
    ) -> tuple[bool, dict[str, Any] | None]:
        """Order the freeze of a request that asks for it; say whether its blocks have to stay."""
        self._matches.pop(request.request_id, None)
        self._gave_up.discard(request.request_id)
        if loading := self._loading.get(request.request_id):
            loading.is_wanted = False
        said: dict[str, Any] = {}
        if reason := self._misses.take(request.request_id):
            said["missed"] = reason
        try:
            asked = Asked.of(request.kv_transfer_params)
            if asked.restore is not None:
                said["request_id"] = request.request_id
            if asked.freeze is not None:
                if not ended_well:
                    raise ThawError("the request was aborted")
                order = self._freeze(request, block_ids, asked)
                self._orders.freezes.append(order)
                self._freezing[request.request_id] = order
                said |= {"session": order.path, "snapshot_id": order.snapshot_id}
                said |= {"tokens": len(order.token_ids) // 4}
        except (ThawError, ValueError, OSError) as error:
            _log.warning("request %s was not frozen: %s", request.request_id, error)
            self.counts.add("freeze_failures")
            said["error"] = str(error)
        stays = request.request_id in self._freezing
        return stays, {"thaw": said} if said else None

    def reset(self) -> bool:
        """Forget what ranks have said: weights may be others by now.

        Returns:
            Whether no block is left of before; where requests or freezes hold some, vLLM did not
            reset its own cache either, and ranks go on to take blocks for those of old weights.
        """
        self._bindings, self._heard, self._unbound = None, {}, ""
        self._sessions = None
        self._failed.clear()
        self._compared.clear()
        pool = self._pool
        # The null block is always in use.
        if pool is not None and pool.num_gpu_blocks - pool.get_num_free_blocks() > 1:
            return False
        self._was_reset = True
        return True

    def close(self) -> None:
        self._sealing.close()

    # Finding

    def _match(self, request: Any, asked: Asked, most: int) -> Match | None:
        """Find the session for a request; None while ranks have not said what they are bound to."""
        try:
            if asked.restore is not None:
                sessions = self._only(request, asked.restore)
            else:
                sessions = self._known()
        except OSError as error:
            return none_serves(FOLDER, f"{self._settings.sessions} cannot be listed: {error}")
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
        if (entries := self._folder.refresh()) is not self._entries:
            self._entries, self._sessions = entries, None
            self._misses.damaged(entries)
        return entries

    def _only(self, request: Any, name: str) -> Sessions | None:
        if not self._is_bound():
            return None
        try:
            entry = read_entry(self._path(name))
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

    def _is_under_way(self, match: Match, computed: int) -> bool:
        """Say whether another request loads what this one wants, so that it is read once."""
        assert match.candidate is not None
        theirs = match.candidate.session.token_ids
        return any(
            min(each.tokens, match.tokens) > computed
            and each.candidate.session.token_ids[: self._unit * 4] == theirs[: self._unit * 4]
            for each in self._loading.values()
        )

    def _bind(self) -> None:
        if len(self._heard) < self._world_size:
            return
        said = [self._heard[rank] for rank in sorted(self._heard)]
        self._asked_for_binding = False
        self._unbound = next((each for each in said if isinstance(each, str)), "")
        if not self._unbound:
            self._bindings = tuple(each for each in said if isinstance(each, Binding))

    def _is_bound(self) -> bool:
        """Say whether ranks have said what sessions are bound to; they are asked, if not."""
        self._asked_for_binding = self._bindings is None and not self._unbound
        return self._bindings is not None

    def _heard_load(self, request_id: str, loading: Loading, moved: Sequence[Moved]) -> None:
        for each in moved:
            if each.reason:
                # Until it is another file. This request has waited long enough.
                self._failed.add(_version(loading.candidate.entry))
                self._sessions, loading.has_failed = None, True
                self.counts.miss(each.reason)
                if loading.is_wanted:
                    self._gave_up.add(request_id)
                    self._misses.note(request_id, each.path, f"{each.path}: {each.error}")

    # Freezing

    def _freeze(self, request: Any, block_ids: Sequence[Sequence[int]], asked: Asked) -> Freeze:
        if request.prompt_embeds is not None:
            raise ThawError("a session cannot hold prompt embeddings")
        assert asked.freeze is not None
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        if asked.tokens is not None:
            computed = min(computed, asked.tokens)
        tokens = computed // self._unit * self._unit
        if not tokens:
            raise ThawError(f"it has not one whole block of {self._unit} tokens")
        stored = [
            _stored(ids, tokens // size)
            for ids, size in zip(block_ids, self._block_tokens, strict=True)
        ]
        inputs = inputs_of(request, self._adapters)
        hashes = request.block_hashes[: tokens // self._hash_tokens]
        path, snapshot_id = self._path(asked.freeze), secrets.token_hex(16)
        self._sealing.begin(path, snapshot_id)
        return Freeze(
            request.request_id,
            os.fspath(path),
            snapshot_id,
            token_bytes(request.all_token_ids[:tokens]),
            Hashes(self._algorithm, releases.none_hash(), self._hash_tokens, b"".join(hashes)),
            tuple(blocks for _, blocks in stored),
            tuple(first for first, _ in stored),
            inputs.adapter,
            inputs.salt_sha256,
            inputs.media_before(tokens),
        )

    def _frozen(self, request_id: str, moved: Sequence[Moved]) -> None:
        """Seal what all ranks have frozen, or remove it."""
        order = self._freezing.pop(request_id)
        failed = [each for each in moved if each.reason]
        self._sealing.end(Path(order.path), order.snapshot_id, failed=bool(failed))

    def _path(self, name: str) -> Path:
        return path_of(name, self._settings.sessions, any_path=self._settings.any_path)


def _version(entry: Entry) -> tuple[object, ...]:
    """Tell a session from another of its name, whenever they were used."""
    return entry.path, entry.snapshot_id, entry.version


def _between(ids: Sequence[int], start: int, end: int, first: int) -> Blocks:
    """Pair a request's blocks with those of a session, but where nothing is to be loaded."""
    places = [place for place in range(start, end) if ids[place] != _NULL_BLOCK]
    return Blocks([place - first for place in places], [ids[place] for place in places])


def _stored(ids: Sequence[int], count: int) -> tuple[int, Blocks]:
    """Choose the blocks to store of the first `count`: all behind the last that is gone.

    Raises:
        ThawError: the last one is gone.
    """
    gone = [place for place in range(count) if place >= len(ids) or ids[place] == _NULL_BLOCK]
    first = gone[-1] + 1 if gone else 0
    if first >= count:
        raise ThawError("its sliding window has passed all whole blocks")
    return first, Blocks(list(range(count - first)), list(ids[first:count]))
