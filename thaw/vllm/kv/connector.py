"""The connector that vLLM calls, in its scheduler and in each worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import RequestStatus

from . import releases
from .counts import Counts, Metrics
from .orders import Answers, Orders
from .scheduler import SessionScheduler
from .settings import Settings
from .specs import check_supported, group_of
from .worker import SessionWorker

_RECOMPUTE = "recompute"


class ThawConnector(base.KVConnectorBase_V1, base.SupportsHMA):
    """Serves requests from sessions, and freezes requests to them.

    Args:
        kv_cache_config: of this engine, or of this worker.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        role: base.KVConnectorRole,
        kv_cache_config: KVCacheConfig,
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = self._kv_transfer_config
        settings = Settings.parse(transfer.kv_connector_extra_config)
        check_supported(vllm_config, kv_cache_config)
        # A session that turns out damaged costs time, and no request.
        transfer.kv_load_failure_policy = _RECOMPUTE
        self._scheduler: SessionScheduler | None = None
        self._worker: SessionWorker | None = None
        if role == base.KVConnectorRole.SCHEDULER:
            self._scheduler = _scheduler(vllm_config, kv_cache_config, settings)
        else:
            self._worker = SessionWorker(vllm_config, kv_cache_config, settings)

    # The scheduler's side

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        from vllm.v1.core.sched.scheduler import Scheduler

        releases.take_failed_loads(Scheduler)
        assert self._scheduler is not None
        self._scheduler.bind_pool(gpu_block_pool)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        found = self._scheduler.matched_tokens(request, num_computed_tokens)
        return found, bool(found)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> Orders:
        assert self._scheduler is not None
        return self._scheduler.take_orders()

    def update_connector_output(self, connector_output: Any) -> None:
        assert self._scheduler is not None
        answers = connector_output.kv_connector_worker_meta
        if isinstance(answers, Answers):
            self._scheduler.hear(answers)
        for request_id in connector_output.finished_recving or ():
            self._scheduler.received(request_id)

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        ended_well = request.status in (
            RequestStatus.FINISHED_STOPPED,
            RequestStatus.FINISHED_LENGTH_CAPPED,
        )
        return self._scheduler.finished(request, block_ids, ended_well)

    def reset_cache(self) -> bool:
        """Forget what sessions were compared with: the weights may be others by now."""
        assert self._scheduler is not None
        return self._scheduler.reset()

    # A worker's side

    @property
    def session_worker(self) -> SessionWorker | None:
        """What does the work in this worker; None in the scheduler."""
        return self._worker

    def register_kv_caches(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        assert self._worker is not None
        self._worker.register(kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        assert self._worker is not None
        orders = self._get_connector_metadata()
        assert isinstance(orders, Orders)
        self._worker.take(orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Wait for nothing: requests are computed once their loads have ended."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Save nothing: requests are frozen when they have ended."""

    def wait_for_save(self) -> None:
        """Wait for nothing."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        return self._worker.take_ended()

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        """Say also which loads failed; releases from 0.27 on ask for that."""
        assert self._worker is not None
        frozen, loaded = self._worker.take_ended()
        return base.KVConnectorTransferResults(  # type: ignore[attr-defined,unused-ignore]
            finished_sending=frozen,
            finished_recving=loaded,
            failed_recving=self._worker.take_failed(),
        )

    def get_block_ids_with_load_errors(self) -> set[int]:
        assert self._worker is not None
        return self._worker.take_failed_blocks()

    def build_connector_worker_meta(self) -> Answers | None:
        assert self._worker is not None
        return self._worker.take_answers()

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()

    # Counters

    def get_kv_connector_stats(self) -> Counts | None:
        side = self._scheduler or self._worker
        assert side is not None
        return side.counts.take()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Counts:
        return Counts(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> Metrics:
        return Metrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _scheduler(
    vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, settings: Settings
) -> SessionScheduler:
    cache = vllm_config.cache_config
    _, hash_tokens = resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)
    return SessionScheduler(
        settings,
        groups=[group_of(each) for each in kv_cache_config.kv_cache_groups],
        hash_tokens=hash_tokens,
        algorithm=str(cache.prefix_caching_hash_algo),
        world_size=vllm_config.parallel_config.world_size,
    )
