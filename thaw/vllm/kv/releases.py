"""Where releases of vLLM differ, or lack something, in what the connector needs of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from typing import Any

from .parts import FULL

_MENDED = "_thaw_takes_failed_loads"


def block_axis(layer: Any, spec: Any, cache_dtype: str) -> int:
    """Say which dimension of a layer's cache counts its rows.

    Args:
        layer: the attention layer of the model.
        spec: vLLM's specification of its cache.
    """
    backend = layer.get_attn_backend()
    if not hasattr(backend, "get_kv_cache_block_dim"):
        # From 0.27 on it is the first for every backend.
        return 0
    return int(
        backend.get_kv_cache_block_dim(
            spec.block_size, spec.num_kv_heads, spec.head_size, cache_dtype_str=cache_dtype
        )
    )


def none_hash() -> bytes:
    """Return what stands for the parent of a first block in this process."""
    from vllm.v1.core import kv_cache_utils

    return bytes(kv_cache_utils.NONE_HASH)


def take_failed_loads(scheduler_class: type) -> None:
    """Have a scheduler compute again what failed to load, where not all blocks are kept.

    Releases up to 0.26 end with an error where layers are of several groups, and go on from the
    blocks before the failed one, though a window has none of them there; later releases are told
    which requests failed (`KVConnectorTransferResults`).
    """
    name = "_update_requests_with_invalid_blocks"
    update = getattr(scheduler_class, name)
    if hasattr(update, _MENDED) or hasattr(scheduler_class, "_handle_failed_recving"):
        return

    @wraps(update)
    def updating(
        scheduler: Any,
        requests: Iterable[Any],
        invalid: set[int],
        scheduled: dict[str, int],
        evict_blocks: bool = True,
    ) -> Any:
        if _keeps_all(scheduler.kv_cache_config):
            return update(scheduler, requests, invalid, scheduled, evict_blocks)
        failed, tokens = set(), 0
        for request in requests:
            groups = scheduler.kv_cache_manager.get_block_ids(request.request_id)
            if request.request_id not in scheduled and any(
                not invalid.isdisjoint(each) for each in groups
            ):
                failed.add(request.request_id)
                tokens += request.num_computed_tokens
                # All of it again: the scheduler then lets go of the blocks.
                request.num_computed_tokens = 0
        return failed, tokens, set()

    setattr(updating, _MENDED, True)
    setattr(scheduler_class, name, updating)


def _keeps_all(kv_cache_config: Any) -> bool:
    """Say whether there is a single group, which has a block for each token."""
    from .specs import group_of

    groups = [group_of(each) for each in kv_cache_config.kv_cache_groups]
    return [each.kind for each in groups] == [FULL]
