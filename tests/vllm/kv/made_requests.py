"""Requests, block pools and the scheduler's side of the connector, without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import without_vllm  # noqa: F401 - before the modules that need it
from made_sessions import BLOCK, ENGINE, LAYERS, session

from thaw.vllm.kv.binding import Binding, GroupOf
from thaw.vllm.kv.orders import Answers, Load, Moved, Orders
from thaw.vllm.kv.scheduler import SessionScheduler
from thaw.vllm.kv.settings import Settings

FULL = GroupOf("full", BLOCK, None, LAYERS)


def binding(rank: int = 0, **members: Any) -> Binding:
    """Say what the sessions of `made_sessions` are bound to."""
    said = session()
    known = {
        "rank": rank,
        "fingerprint": said.fingerprint,
        "engine": ENGINE,
        "groups": (FULL,),
        "layers": said.layers,
    }
    return Binding(**(known | members))


def request(
    name: str = "r", ids: Sequence[int] = range(65), computed: int | None = None, **asked: Any
) -> Any:
    """Make a request as vLLM's scheduler has it.

    Args:
        computed: how many tokens have blocks; all but the last if it is not said.
        asked: what it asks of sessions.
    """
    ids = list(ids)
    return SimpleNamespace(
        request_id=name,
        kv_transfer_params={"thaw": asked} if asked else None,
        prompt_embeds=None,
        num_tokens=len(ids),
        all_token_ids=ids,
        num_computed_tokens=len(ids) - 1 if computed is None else computed,
        block_hashes=[bytes([index]) * 32 for index in range(len(ids) // BLOCK)],
        lora_request=None,
        cache_salt=None,
        mm_features=[],
        skip_reading_prefix_cache=False,
    )


class Pool:
    """A block pool of which some blocks are in use, the null block among them.

    Args:
        cached: numbers of blocks that no request has, by hash and group.
    """

    def __init__(self, used: int = 1, cached: Mapping[tuple[bytes, int], int] | None = None):
        self.num_gpu_blocks, self.used, self.touched = 100, used, list[int]()
        self._cached = dict(cached or {})

    def get_num_free_blocks(self) -> int:
        return self.num_gpu_blocks - self.used - len(self.touched)

    def get_cached_block(self, block_hash: bytes, groups: list[int]) -> list[Any] | None:
        keys = [(block_hash, group) for group in groups]
        if not self._cached.keys() >= set(keys):
            return None
        return [SimpleNamespace(block_id=self._cached[key]) for key in keys]

    def touch(self, blocks: Sequence[Any]) -> None:
        self.touched += [each.block_id for each in blocks]

    def free_blocks(self, blocks: Iterable[Any]) -> None:
        for each in blocks:
            self.touched.remove(each.block_id)


def scheduler(
    folder: Path,
    *,
    ranks: int = 1,
    bound: bool = True,
    groups: Sequence[GroupOf] = (FULL,),
    **settings: Any,
) -> Any:
    """Make the scheduler's side; its ranks have said what they are bound to, if that is wanted."""
    made = SessionScheduler(
        Settings(sessions=str(folder), **settings),
        groups=groups,
        hash_tokens=BLOCK,
        algorithm="sha256",
        world_size=ranks,
    )
    if bound:
        bind(made, ranks=ranks)
    return made


def bind(made: SessionScheduler, *, ranks: int = 1, **members: Any) -> None:
    made.hear(Answers(bindings={rank: binding(rank, **members) for rank in range(ranks)}))


def step(made: SessionScheduler, **members: Any) -> Orders:
    """Take the orders of a step; ranks answer if they are asked what they are bound to."""
    orders = made.take_orders()
    if orders.wants_binding:
        bind(made, **members)
    return orders


def begin(made: SessionScheduler, asked: Any, computed: int = 0) -> int | None:
    """Ask for a request as vLLM does, and give it the blocks that it needs."""
    found = made.matched_tokens(asked, computed)
    if found:
        count = -(-asked.num_tokens // BLOCK)
        made.allocated(asked, [list(range(1, count + 1))], found)
    return found


def end(made: SessionScheduler, load: Load, *, rank: int = 0, **members: Any) -> None:
    """Have a load end, on a single rank."""
    moved = Moved(rank, load.path, load.snapshot_id, **members)
    made.hear(Answers(loads={load.request_id: [moved]}))
    made.received(load.request_id)


def misses(made: Any) -> dict[str, int]:
    """Count, by reason, what served no request."""
    found: dict[str, int] = made.counts.data.get("misses", {})
    return found


def missed(made: Any, asked: Any) -> str:
    """Say what a request is told at its end."""
    _, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    return str((said or {}).get("thaw", {}).get("missed", ""))
