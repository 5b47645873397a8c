"""Blocks that vLLM caches and that no request has: found by their hash, held until written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class HeldBlocks:
    """Finds blocks in vLLM's pool, and keeps them from being dealt out.

    A request lets go of a state once there is one of more tokens; the block stays cached, like
    those of requests that have ended, until the pool needs it.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._held: dict[str, list[Any]] = {}

    def bind(self, pool: Any) -> None:
        """Take vLLM's pool of blocks."""
        self._pool = pool

    def find(self, block_hash: bytes, groups: Sequence[int]) -> list[Any] | None:
        """Return, for each of some groups, the block that ends where the hash does.

        Args:
            groups: their indices.

        Returns:
            None if there is none for one of them.
        """
        if self._pool is None:
            return None
        found: list[Any] | None = self._pool.get_cached_block(block_hash, list(groups))
        return found

    def hold(self, request_id: str, blocks: Sequence[Any]) -> None:
        """Keep blocks for a request's freeze."""
        if blocks:
            self._pool.touch(blocks)
            self._held[request_id] = list(blocks)

    def release(self, request_id: str) -> None:
        """Give back what is kept for a request's freeze."""
        if blocks := self._held.pop(request_id, None):
            self._pool.free_blocks(blocks)

    def is_all_free(self) -> bool:
        """Say whether no block is in use, by requests or freezes."""
        pool = self._pool
        # The null block is always in use.
        return pool is None or pool.num_gpu_blocks - pool.get_num_free_blocks() <= 1
