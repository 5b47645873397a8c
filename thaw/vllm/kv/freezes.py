"""What becomes of requests that ask to be frozen, from their end to the session's name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thaw_format import ThawError

from . import releases
from .binding import GroupOf
from .held import HeldBlocks
from .layout import NULL_BLOCK, Blocks
from .orders import Freeze, Moved
from .parts import STATE
from .record import Hashes
from .requests import Adapters, inputs_of, token_bytes
from .sealing import Sealing


class Freezes:
    """Orders freezes, and seals what all ranks have frozen.

    Args:
        held: where blocks are that requests have let go of.
        groups: of layers, in vLLM's order.
        unit: the tokens that each group has whole blocks of.
        hash_tokens: how many tokens a hash of vLLM's covers.
        algorithm: of those hashes.
        ranks: how many there are.
    """

    def __init__(
        self,
        sealing: Sealing,
        held: HeldBlocks,
        *,
        groups: Sequence[GroupOf],
        unit: int,
        hash_tokens: int,
        algorithm: str,
        ranks: int,
        adapters: Adapters,
    ) -> None:
        self._sealing, self._held, self._adapters = sealing, held, adapters
        self._block_tokens, self._unit = tuple(each.block_tokens for each in groups), unit
        self._states = [index for index, each in enumerate(groups) if each.kind == STATE]
        self._hash_tokens, self._algorithm, self._ranks = hash_tokens, algorithm, ranks
        self._under_way: dict[str, Freeze] = {}
        self._ended: dict[str, list[Moved]] = {}

    def order(
        self, request: Any, block_ids: Sequence[Sequence[int]], path: Path, most: int | None
    ) -> Freeze:
        """Order the freeze of a request that has ended.

        Args:
            most: how many tokens are wanted at most.

        Raises:
            ThawError: no session can hold it.
            OSError: the folder that ranks write to cannot be made.
        """
        if request.prompt_embeds is not None:
            raise ThawError("a session cannot hold prompt embeddings")
        tokens, states = self._with_states(request, self._tokens(request, most))
        stored = [
            _last(states[index], tokens // size)
            if index in states
            else _stored(ids, tokens // size)
            for index, (ids, size) in enumerate(zip(block_ids, self._block_tokens, strict=True))
        ]
        inputs = inputs_of(request, self._adapters)
        hashes = request.block_hashes[: tokens // self._hash_tokens]
        snapshot_id = secrets.token_hex(16)
        self._sealing.begin(path, snapshot_id)
        order = Freeze(
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
        self._under_way[request.request_id] = order
        self._held.hold(request.request_id, list(states.values()))
        return order

    def hear(self, request_id: str, moved: Sequence[Moved]) -> None:
        """Take how ranks have ended; when all have, seal the session, or remove it."""
        ended = self._ended.setdefault(request_id, [])
        ended.extend(moved)
        if len(ended) == self._ranks:
            del self._ended[request_id]
            order = self._under_way.pop(request_id)
            self._held.release(request_id)
            failed = any(each.reason for each in ended)
            self._sealing.end(Path(order.path), order.snapshot_id, failed=failed)

    def close(self) -> None:
        self._sealing.close()

    def _tokens(self, request: Any, most: int | None) -> int:
        """Count the tokens whose blocks are whole and computed."""
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        if most is not None:
            computed = min(computed, most)
        tokens = int(computed) // self._unit * self._unit
        if not tokens:
            raise ThawError(f"it has not one whole block of {self._unit} tokens")
        return tokens

    def _with_states(self, request: Any, most: int) -> tuple[int, dict[int, Any]]:
        """Find the last states that are of at most so many tokens, and of whole blocks.

        Returns:
            The tokens they are of, and for each group of states its block.

        Raises:
            ThawError: there is none any more.
        """
        if not self._states:
            return most, {}
        for tokens in range(most, 0, -self._unit):
            block_hash = request.block_hashes[tokens // self._hash_tokens - 1]
            if blocks := self._held.find(block_hash, self._states):
                return tokens, dict(zip(self._states, blocks, strict=True))
        raise ThawError("vLLM's cache has no state any more that ends with one of its blocks")


def _last(block: Any, count: int) -> tuple[int, Blocks]:
    """Store a state: the last block, which stands for all before it."""
    return count - 1, Blocks([0], [block.block_id])


def _stored(ids: Sequence[int], count: int) -> tuple[int, Blocks]:
    """Choose the blocks to store of the first `count`: all behind the last that is gone.

    Raises:
        ThawError: the last one is gone.
    """
    gone = [place for place in range(count) if place >= len(ids) or ids[place] == NULL_BLOCK]
    first = gone[-1] + 1 if gone else 0
    if first >= count:
        raise ThawError("its sliding window has passed all whole blocks")
    return first, Blocks(list(range(count - first)), list(ids[first:count]))
