"""A worker's side of the connector: it runs what the scheduler orders, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from thaw_format import JSON, ThawError

from ..agent import Agent, agent_with, is_last
from ..weights.identity import PROCESSED, identify, rank_shard
from . import releases
from .binding import Binding
from .counts import Counts
from .layout import LayerCache
from .orders import Answers, Load, Moved, Orders
from .settings import Settings
from .specs import check_blocks, group_of, keeps_state, parts_of, positions_of, spec_of
from .transfers import Rank, Transfers

_REMEMBERED = 256
_STALE = (
    "this process has the connector of another engine, which did not start or was not shut down: "
    "shut it down, or start this engine in a new process"
)


class SessionWorker:
    """Loads and freezes the blocks of one rank.

    Attributes:
        loaded: how the last loads ended, by request.
        frozen: how the last freezes ended, by snapshot id.
    """

    def __init__(self, vllm_config: Any, kv_cache_config: Any, settings: Settings) -> None:
        self.counts = Counts()
        self._config, self._settings = vllm_config, settings
        # Before the worker adds to them layers that share the cache of others.
        groups = kv_cache_config.kv_cache_groups
        self._groups = tuple(group_of(each) for each in groups)
        self._layers = [(name, spec_of(each, name)) for each in groups for name in each.layer_names]
        self._blocks = kv_cache_config.num_blocks
        self._transfers: Transfers | None = None
        self._binding: Binding | None = None
        self._caches: dict[str, LayerCache] = {}
        self._loads: dict[str, Load] = {}
        self.loaded: dict[str, Moved] = {}
        self.frozen: dict[str, Moved] = {}
        self._answers = Answers()
        self._failed: set[str] = set()
        self._failed_blocks: set[int] = set()

    def register(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        """Take the memory of the engine's caches.

        Raises:
            ThawError: blocks of one are not what the engine says, or they are another engine's.
        """
        if not is_last(self._config):
            raise ThawError(_STALE)
        for name, spec in self._layers:
            self._caches |= self._caches_of(name, spec, kv_caches[name])
        shard = rank_shard(self._config, self._agent.rank)
        rank = Rank(shard, self._caches, self._bound, self._agent.opened, self._settings.backend)
        self._transfers = Transfers(rank)
        if rank.device.type == "cuda":
            # Now, while nothing is captured and nobody waits; what fails is said when it is asked.
            with suppress(ThawError, TypeError, ValueError):
                self._bound()
            self._transfers.warm_up()

    def take(self, orders: Orders) -> None:
        """Begin what is ordered."""
        if self._transfers is None:
            return
        if orders.reset:
            self._agent.caches_are_old = False
        if orders.wants_binding:
            self._answer_binding()
        for load in orders.loads:
            self._loads[load.request_id] = load
            self._transfers.load(load)
        for freeze in orders.freezes:
            self._transfers.freeze(freeze)

    def take_ended(self) -> tuple[set[str], set[str]]:
        """Return the requests whose freezes, and whose loads, have ended since the last time."""
        if self._transfers is None:
            return set(), set()
        ended = self._transfers.take_ended()
        for request_id, moved in ended.loads.items():
            self._count("load", moved)
            _remember(self.loaded, request_id, moved)
            self._answers.loads[request_id] = [moved]
            order = self._loads.pop(request_id)
            if moved.reason:
                self._failed.add(request_id)
                self._failed_blocks |= {each for group in order.groups for each in group.numbers}
        for request_id, moved in ended.freezes.items():
            self._count("freeze", moved)
            _remember(self.frozen, moved.snapshot_id, moved)
            self._answers.freezes[request_id] = [moved]
        return set(ended.freezes), set(ended.loads)

    def take_failed(self) -> set[str]:
        failed, self._failed = self._failed, set()
        self._failed_blocks.clear()
        return failed

    def take_failed_blocks(self) -> set[int]:
        blocks, self._failed_blocks = self._failed_blocks, set()
        self._failed.clear()
        return blocks

    def take_answers(self) -> Answers | None:
        answers, self._answers = self._answers, Answers()
        return answers if answers.bindings or answers.loads or answers.freezes else None

    def fence(self) -> None:
        """Wait until no load and no freeze is under way."""
        if self._transfers is not None:
            self._transfers.fence()

    def close(self) -> None:
        if self._transfers is not None:
            self._transfers.close()

    def _caches_of(self, name: str, spec: Any, cache: Any) -> dict[str, LayerCache]:
        """Describe what a layer keeps: its cache, or each tensor of its state."""
        said = str(self._config.cache_config.cache_dtype)
        layer = self._config.compilation_config.static_forward_context[name]
        backend = layer.get_attn_backend().get_name()
        if keeps_state(spec):
            tensors, axis = layer.kv_cache, 0
        else:
            tensors, axis = [cache], releases.block_axis(layer, spec, said)
        made = {
            part: LayerCache.of(each, axis, self._blocks, backend=backend, cache_dtype=said)
            for part, each in zip(parts_of(name, spec), tensors, strict=True)
        }
        check_blocks(name, list(made.values()), spec)
        return made

    @property
    def _agent(self) -> Agent:
        return agent_with(self._config)

    def _bound(self) -> Binding:
        """Say what sessions of this rank are bound to, as of now."""
        agent = self._agent
        if agent.caches_are_old:
            raise ThawError(
                "the weights have changed, and the cache may hold blocks of the old ones: call "
                "reset_prefix_cache(reset_connector=True)"
            )
        fingerprint = agent.fingerprint()
        if self._binding is None or self._binding.fingerprint != fingerprint:
            self._binding = Binding(
                agent.rank,
                fingerprint,
                self._engine(),
                self._groups,
                {name: cache.layer for name, cache in self._caches.items()},
            )
        return self._binding

    def _engine(self) -> Mapping[str, JSON]:
        config, agent = self._config, self._agent
        engine = identify(config, config.model_config, agent.rank, PROCESSED)
        return engine | {"positions": positions_of(agent.model)}

    def _answer_binding(self) -> None:
        said: Binding | str
        try:
            said = self._bound()
        except (ThawError, TypeError, ValueError) as error:
            said = f"rank {self._agent.rank}: {error}"
        self._answers.bindings[self._agent.rank] = said

    def _count(self, what: str, moved: Moved) -> None:
        if moved.reason:
            self.counts.add(f"{what}_failures")
            return
        self.counts.add(f"{what}s")
        self.counts.add(f"{what}_bytes", moved.nbytes)
        self.counts.add(f"{what}_seconds", moved.elapsed_s)


def _remember(last: dict[str, Moved], key: str, moved: Moved) -> None:
    last[key] = moved
    while len(last) > _REMEMBERED:
        del last[next(iter(last))]
