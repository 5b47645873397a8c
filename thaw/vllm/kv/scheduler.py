"""The scheduler's side of the connector: which session serves a request, and what is frozen."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thaw_format import ThawError

from .binding import Difference, GroupOf
from .counts import Counts
from .freezes import Freezes
from .held import HeldBlocks
from .index import SessionIndex
from .layout import NULL_BLOCK, Blocks
from .lookup import INPUTS, Candidate, Match
from .misses import Misses
from .orders import Answers, Load, Moved, Orders
from .parts import STATE, Group
from .requests import Adapters, Asked
from .sealing import Sealing
from .settings import Settings

_EMBEDDED = Difference(INPUTS, "the request has prompt embeddings")

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
        groups: of layers, in vLLM's order.
        hash_tokens: how many tokens a hash of vLLM's covers.
        algorithm: of those hashes.
        world_size: how many ranks there are.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        groups: Sequence[GroupOf],
        hash_tokens: int,
        algorithm: str,
        world_size: int,
    ) -> None:
        self.counts = Counts()
        self._misses = Misses(self.counts)
        self._block_tokens = tuple(each.block_tokens for each in groups)
        self._unit = math.lcm(hash_tokens, *self._block_tokens)
        self._adapters = adapters = Adapters()
        self._index = SessionIndex(
            settings, unit=self._unit, ranks=world_size, misses=self._misses, adapters=adapters
        )
        folder = self._index.folder.path
        self._where = re.compile(rf"{re.escape(str(folder))}(?:/|(?![\w.-]))")
        self._held = HeldBlocks()
        self._freezes = Freezes(
            Sealing(folder, ranks=world_size, max_bytes=settings.max_bytes),
            self._held,
            groups=groups,
            unit=self._unit,
            hash_tokens=hash_tokens,
            algorithm=algorithm,
            ranks=world_size,
            adapters=adapters,
        )
        self._was_reset = False
        self._gave_up: set[str] = set()
        self._matches: dict[str, Match] = {}
        self._loading: dict[str, Loading] = {}
        self._orders = Orders()

    # What vLLM's scheduler asks

    def bind_pool(self, pool: Any) -> None:
        """Take vLLM's pool of blocks."""
        self._held.bind(pool)

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
        most = (request.num_tokens - 1) // self._unit * self._unit
        if most <= computed and asked.restore is None:
            return 0
        found = self._index.match(request, asked, most)
        if found is None or (found.tokens > computed and self._is_under_way(found, computed)):
            return None
        for path, difference in found.missed:
            self._misses.miss(request.request_id, path, difference)
        for path, difference in found.hidden:
            # One that names a session knows of it.
            is_told = asked.restore is not None
            self._misses.miss(request.request_id, path, difference, is_told=is_told)
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
            _between(ids, _start(group, computed // size), found.tokens // size, group.first_block)
            for ids, size, group in zip(
                block_ids, self._block_tokens, found.candidate.session.groups, strict=True
            )
        )
        candidate = found.candidate
        order = Load(request.request_id, candidate.path, candidate.snapshot_id, groups)
        self._orders.loads.append(order)
        self._loading[request.request_id] = Loading(candidate, found.tokens, external_tokens)
        self._misses.take(request.request_id)
        self._index.folder.touch(candidate.entry)

    def take_orders(self) -> Orders:
        """Return what workers have to do in this step."""
        orders, self._orders = self._orders, Orders()
        orders.wants_binding = self._index.wants_binding
        orders.reset, self._was_reset = self._was_reset, False
        return orders

    def hear(self, answers: Answers) -> None:
        """Take what workers answered."""
        if answers.bindings:
            self._index.hear(answers.bindings)
        for request_id, moved in answers.loads.items():
            if loading := self._loading.get(request_id):
                self._heard_load(request_id, loading, moved)
        for request_id, moved in answers.freezes.items():
            self._freezes.hear(request_id, moved)

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
        stays = False
        if reason := self._misses.take(request.request_id):
            said["missed"] = reason
        try:
            asked = Asked.of(request.kv_transfer_params)
            if asked.restore is not None:
                said["request_id"] = request.request_id
            if asked.freeze is not None:
                if not ended_well:
                    raise ThawError("the request was aborted")
                path = self._index.path(asked.freeze)
                order = self._freezes.order(request, block_ids, path, asked.tokens)
                self._orders.freezes.append(order)
                stays = True
                said |= {"session": order.path, "snapshot_id": order.snapshot_id}
                said |= {"tokens": len(order.token_ids) // 4}
        except (ThawError, ValueError, OSError) as error:
            _log.warning("request %s was not frozen: %s", request.request_id, error)
            self.counts.add("freeze_failures")
            said["error"] = str(error)
        said = {key: self._by_name(value) for key, value in said.items()}
        return stays, {"thaw": said} if said else None

    def _by_name(self, said: Any) -> Any:
        """Tell who sent a request the names of sessions, and not where this machine keeps them."""
        return self._where.sub(_without_folder, said) if isinstance(said, str) else said

    def reset(self) -> bool:
        """Forget what ranks have said: weights may be others by now.

        Returns:
            Whether no block is left of before; where requests or freezes hold some, vLLM did not
            reset its own cache either, and ranks go on to take blocks for those of old weights.
        """
        self._index.reset()
        if not self._held.is_all_free():
            return False
        self._was_reset = True
        self._adapters.forget_blocks()
        return True

    def close(self) -> None:
        self._freezes.close()

    def _is_under_way(self, match: Match, computed: int) -> bool:
        """Say whether another request loads what this one wants, so that it is read once."""
        assert match.candidate is not None
        theirs = match.candidate.session.token_ids
        return any(
            min(each.tokens, match.tokens) > computed
            and each.candidate.session.token_ids[: self._unit * 4] == theirs[: self._unit * 4]
            for each in self._loading.values()
        )

    def _heard_load(self, request_id: str, loading: Loading, moved: Sequence[Moved]) -> None:
        for each in moved:
            if each.reason:
                self._index.fail(loading.candidate.entry)
                loading.has_failed = True
                self.counts.miss(each.reason)
                if loading.is_wanted:
                    # It has waited long enough.
                    self._gave_up.add(request_id)
                    self._misses.note(request_id, each.path, f"{each.path}: {each.error}")


def _without_folder(found: re.Match[str]) -> str:
    return "" if found[0].endswith("/") else "the folder of sessions"


def _start(group: Group, first: int) -> int:
    """Say from which block on blocks are loaded; what a state was before does not matter."""
    return max(first, group.first_block) if group.kind == STATE else first


def _between(ids: Sequence[int], start: int, end: int, first: int) -> Blocks:
    """Pair a request's blocks with those of a session, but where nothing is to be loaded."""
    places = [place for place in range(start, end) if ids[place] != NULL_BLOCK]
    return Blocks([place - first for place in places], [ids[place] for place in places])
