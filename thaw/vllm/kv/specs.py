"""What vLLM says of groups of layers, in the words of sessions; others are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

from ...errors import MismatchError
from .binding import GroupOf
from .layout import LayerCache
from .parts import FULL, SLIDING_WINDOW, STATE

_OF_LONGEST = frozenset({"use_long_rope", "attn_temperature_tuning"})
"""Attributes of vLLM's modules that `max_model_len` decides."""
_KINDS = {
    "FullAttentionSpec": FULL,
    "MLAAttentionSpec": FULL,
    "TQFullAttentionSpec": FULL,
    "SlidingWindowSpec": SLIDING_WINDOW,
    "SlidingWindowMLASpec": SLIDING_WINDOW,
    "MambaSpec": STATE,
}
"""By the very class: what vLLM or a plugin derives from these drops other blocks, or keeps more."""
_CHUNKED = "ChunkedLocalAttentionSpec"
"""With one kind of groups, vLLM keeps all blocks of these."""


def group_of(group: Any) -> GroupOf:
    """Describe one of vLLM's groups.

    Raises:
        MismatchError: it keeps what a session cannot hold.
    """
    layers = tuple(group.layer_names)
    said = {_kind(each, layers) for each in _each(group.kv_cache_spec)}
    if len(said) > 1:
        found = "; ".join(map(str, sorted(said, key=str)))
        raise _refused(layers, f"of kinds that differ ({found})")
    if getattr(group, "host_resident", False) or not getattr(group, "enable_kv_transfer", True):
        raise _refused(layers, "that it keeps out of transfers")
    kind, block_tokens, window = said.pop()
    names = [name for layer in layers for name in parts_of(layer, spec_of(group, layer))]
    return GroupOf(kind, block_tokens, window, tuple(names))


def spec_of(group: Any, layer: str) -> Any:
    """Return vLLM's specification of one layer's cache."""
    spec = group.kv_cache_spec
    return spec.kv_cache_specs[layer] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def parts_of(layer: str, spec: Any) -> list[str]:
    """Name the tensors that a layer keeps: one, or those of a state."""
    if not keeps_state(spec):
        return [layer]
    return [f"{layer}.state.{index}" for index in range(len(spec.shapes))]


def keeps_state(spec: Any) -> bool:
    """Say whether a layer keeps a state in place of keys and values."""
    return _KINDS.get(type(spec).__name__) == STATE


def _held_nbytes(spec: Any) -> int:
    """Say how many bytes of a layer a block has, without what only fills it up."""
    if not keeps_state(spec):
        return int(spec.unpadded_page_size_bytes)
    return sum(
        math.prod(shape) * dtype.itemsize
        for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True)
    )


def check_blocks(name: str, caches: Sequence[LayerCache], spec: Any) -> None:
    """Refuse a layer of which vLLM shows less, or more, than its blocks hold.

    Args:
        name: of the layer.
        caches: the tensors that it keeps.
        spec: vLLM's specification of its cache.

    Raises:
        MismatchError: a block of the session would not be all of the engine's.
    """
    held, shown = _held_nbytes(spec), sum(each.block_nbytes for each in caches)
    if shown != held:
        raise MismatchError(
            f"a block of {name!r} has {held} bytes, of which vLLM's {caches[0].layer.backend} "
            f"shows {shown}: a session cannot hold it; start this engine without the connector"
        )


def _each(spec: Any) -> list[Any]:
    if isinstance(spec, UniformTypeKVCacheSpecs):
        return list(spec.kv_cache_specs.values())
    return [spec]


def _kind(spec: Any, layers: tuple[str, ...]) -> tuple[str, int, int | None]:
    name = type(spec).__name__
    kind = _KINDS.get(name)
    if kind is None:
        way = ", or with disable_hybrid_kv_cache_manager=True" if name == _CHUNKED else ""
        raise _refused(layers, f"which vLLM calls {name}", way)
    if not getattr(spec, "prefix_cacheable", True):
        raise _refused(layers, f"of whose {name} vLLM caches no prefix")
    if kind == STATE and spec.mamba_cache_mode == "none":
        raise _refused(
            layers, f"of whose {name} vLLM caches no prefix with mamba_cache_mode='none'"
        )
    if kind == STATE and spec.num_speculative_blocks:
        raise _refused(layers, "which keep states of drafts too", ", or without speculative_config")
    if kind != SLIDING_WINDOW:
        return kind, spec.block_size, None
    kept = getattr(spec, "extra_retained_tokens", 0)
    return kind, spec.block_size, spec.sliding_window + kept


def _refused(layers: tuple[str, ...], why: str, way: str = "") -> MismatchError:
    name = repr(layers[0]) if layers else "layers of other ranks"
    return MismatchError(
        f"a session cannot hold the state of {name} and the like, {why}: start this engine without "
        f"the connector{way}"
    )


def positions_of(model: nn.Module) -> str:
    """Say what a model made of the longest request that its engine takes.

    Keys and values depend on it, where neither weights nor configuration do.
    """
    found = {
        f"{type(module).__name__}.{name} = {vars(module)[name]}"
        for module in model.modules()
        for name in _OF_LONGEST & vars(module).keys()
    }
    return ", ".join(sorted(found)) or "none"


_DRAFTING = frozenset({None, "ngram", "ngram_gpu", "suffix"})
"""What drafts without weights."""


def check_supported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse engines whose blocks no session can hold, on every rank and in the scheduler.

    Raises:
        MismatchError: it is such an engine; the message names the option, or the layers.
    """
    if not vllm_config.cache_config.enable_prefix_caching:
        raise MismatchError(
            "sessions are prefixes, and this engine caches none: pass enable_prefix_caching=True, "
            "if vLLM can do so for this model on this device"
        )
    for group in kv_cache_config.kv_cache_groups:
        group_of(group)
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        raise MismatchError(
            "with calculate_kv_scales each process scales keys and values by what it computes "
            "first, so that those of another mean something else: leave it out"
        )
    drafting = getattr(vllm_config.speculative_config, "method", None)
    if drafting not in _DRAFTING:
        raise MismatchError(
            f"with {drafting!r} drafts may have keys and values too, and nothing says by which "
            "weights those of a session were made: leave out speculative_config, or draft without "
            f"weights ({', '.join(sorted(filter(None, _DRAFTING)))})"
        )
    parallel = vllm_config.parallel_config
    for option in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, option, 1) > 1:
            raise MismatchError(
                f"sessions do not know how {option}={getattr(parallel, option)} deals out tokens: "
                "leave it out"
            )
