"""What vLLM says of groups of layers, in the words of sessions; others are refused."""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

from ...errors import MismatchError
from .binding import GroupOf

FULL, SLIDING_WINDOW = "full", "sliding-window"


def group_of(group: Any) -> GroupOf:
    """Describe one of vLLM's groups.

    Raises:
        MismatchError: it keeps what a session cannot hold.
    """
    spec = _one_of(group.kv_cache_spec)
    layers = tuple(group.layer_names)
    if isinstance(spec, SlidingWindowSpec):
        return GroupOf(SLIDING_WINDOW, spec.block_size, spec.sliding_window, layers)
    if isinstance(spec, FullAttentionSpec) and not isinstance(spec, ChunkedLocalAttentionSpec):
        return GroupOf(FULL, spec.block_size, None, layers)
    raise MismatchError(
        f"a session cannot hold the state of {layers[0]!r} and the like, which vLLM calls "
        f"{type(spec).__name__}: start this engine without the connector"
    )


def spec_of(group: Any, layer: str) -> Any:
    """Return vLLM's specification of one layer's cache."""
    spec = group.kv_cache_spec
    return spec.kv_cache_specs[layer] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _one_of(spec: Any) -> Any:
    if isinstance(spec, UniformTypeKVCacheSpecs):
        return next(iter(spec.kv_cache_specs.values()))
    return spec


def check_supported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse engines whose blocks no session can hold.

    Raises:
        MismatchError: it is such an engine; the message names the option, or the layers.
    """
    for group in kv_cache_config.kv_cache_groups:
        group_of(group)
    parallel = vllm_config.parallel_config
    for option in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, option, 1) > 1:
            raise MismatchError(
                f"sessions do not know how {option}={getattr(parallel, option)} deals out tokens: "
                "leave it out"
            )
