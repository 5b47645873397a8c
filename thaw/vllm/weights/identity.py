"""What a snapshot of an engine depends on: recorded when it is frozen, checked before it is loaded.

A `loaded` snapshot was taken before vLLM processed the weights, and depends on how vLLM lays a
model out; a `processed` one was taken from a live engine, and depends on its kernels as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from thaw_format import JSON, RankOf, Shard, Snapshot

from ...errors import MismatchError
from .configuration import Configuration, compare_configurations, configuration_of, is_recorded

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

LOADED, PROCESSED = "loaded", "processed"
STAGES = (LOADED, PROCESSED)
_KEY = "vllm"
_CONFIG = "config"
_LINEAR = "linear"
"""How vLLM deals experts out unless it is told another way: the first ones to the first rank."""

_ADVICE = {
    "model": "it is another model's snapshot",
    "config": "the model's configuration differs; freeze this model to a snapshot of its own",
    "implementation": "pass runner=, convert= and model_impl= as when the snapshot was frozen",
    "dtype": "pass dtype= as it was when the snapshot was frozen",
    "quantization": "pass quantization= as it was when the snapshot was frozen",
    "rank": "a snapshot is loaded with as many ranks as it was frozen with",
    "tensor_parallel": "a snapshot is loaded with the tensor_parallel_size it was frozen with",
    "pipeline_parallel": "a snapshot is loaded with the pipeline_parallel_size it was frozen with",
    "expert_parallel": "pass enable_expert_parallel= as it was when the snapshot was frozen",
    "data_parallel": "replicas of a model with experts have other experts each; load what was "
    "frozen of this replica, or do without data_parallel_size",
    "vllm": "other releases may lay weights out in another way; freeze again with this one",
    "torch": "processed weights belong to the torch that they were processed with; freeze again",
    "device": "processed weights belong to the kind of device; freeze again here",
    "attention": "processed weights belong to the attention backend; choose it or freeze again",
}


def rank_shard(vllm_config: VllmConfig, rank: int) -> Shard:
    """Place a worker among those of its engine, or of its replica under data parallelism.

    Args:
        rank: of the worker in its engine, or in the world of all replicas.

    Raises:
        MismatchError: the engine is parallel in a way that snapshots cannot say.
    """
    parallel = vllm_config.parallel_config
    if getattr(parallel, "prefill_context_parallel_size", 1) > 1:
        raise MismatchError(
            "prefill_context_parallel_size is more than 1, and thaw does not know how weights are "
            "laid out then: leave it out"
        )
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    rank %= tp * pp
    replica = replica_of(vllm_config)
    expert = None
    if parallel.enable_expert_parallel:
        expert = RankOf(replica.rank * tp + rank % tp, replica.size * tp)
    return Shard(rank, tp * pp, RankOf(rank % tp, tp), RankOf(rank // tp, pp), expert)


def replica_of(vllm_config: VllmConfig) -> RankOf:
    """Place an engine among the replicas that its model's experts are cut by; others count not."""
    parallel = vllm_config.parallel_config
    return RankOf(getattr(parallel, "data_parallel_rank", 0), parallel.data_parallel_size)


def identify(
    vllm_config: VllmConfig, model_config: ModelConfig, rank: int, stage: str
) -> dict[str, JSON]:
    """Say what a snapshot of one rank depends on, field by field."""
    import vllm

    config = model_config.hf_config
    shard = rank_shard(vllm_config, rank)
    fields: dict[str, JSON] = {
        "model": "+".join(map(str, config.architectures or [type(config).__name__])),
        _CONFIG: configuration_of(model_config).record(),
        "implementation": _implementation(model_config),
        "dtype": str(model_config.dtype).removeprefix("torch."),
        "quantization": str(model_config.quantization or "none"),
        "rank": _said(RankOf(shard.rank, shard.size)),
        "tensor_parallel": _said(shard.tp),
        "pipeline_parallel": _said(shard.pp),
        "expert_parallel": _said(shard.ep) + _placement(vllm_config),
        "data_parallel": _replica(vllm_config, model_config),
        "vllm": vllm.__version__,
    }
    if stage == PROCESSED:
        fields |= {
            "torch": torch.__version__,
            "device": _device(),
            "attention": _attention(vllm_config),
        }
    return fields


def record(
    stage: str,
    identity: Mapping[str, JSON],
    floats: Mapping[str, float],
    kernels: list[JSON] | None = None,
) -> dict[str, JSON]:
    """Make a snapshot's metadata. Floats are said in hexadecimal, to the last bit.

    Args:
        kernels: what the weights were processed for; None before they are processed.
    """
    said: dict[str, JSON] = {name: value.hex() for name, value in floats.items()}
    more: dict[str, JSON] = {} if kernels is None else {"kernels": kernels}
    return {_KEY: {"stage": stage, "identity": dict(identity), "floats": said, **more}}


def stage_of(snapshot: Snapshot) -> str:
    """Return "loaded" or "processed".

    Raises:
        MismatchError: the snapshot is not of a vLLM engine.
    """
    recorded = _recorded(snapshot)
    # "kind" is what snapshots said before that word was for weights or KV blocks alone.
    stage = recorded.get("stage", recorded.get("kind"))
    if stage not in STAGES:
        raise MismatchError(
            f"{snapshot.path} says that its weights are {stage!r}, expected one of "
            f"{', '.join(STAGES)}"
        )
    return str(stage)


def kernels_in(snapshot: Snapshot) -> object:
    """Return what a snapshot says of the kernels that its weights were processed for."""
    return _recorded(snapshot).get("kernels")


def floats_of(snapshot: Snapshot) -> dict[str, float]:
    """Return the floats that processing derived from weights."""
    floats = _recorded(snapshot).get("floats", {})
    try:
        return {name: float.fromhex(value) for name, value in floats.items()}
    except (AttributeError, TypeError, ValueError):
        raise MismatchError(f"{snapshot.path} has floats that are no hexadecimal floats") from None


def check_identity(snapshot: Snapshot, expected: Mapping[str, JSON]) -> None:
    """Compare what a snapshot was frozen from with the engine that wants it.

    Raises:
        MismatchError: fields differ; each is named, with both values and what to do.
    """
    found = _recorded(snapshot).get("identity", {})
    if _CONFIG in expected and not is_recorded(found.get(_CONFIG)):
        raise MismatchError(
            f"{snapshot.path} was frozen by an older thaw, which recorded no more than a digest of "
            "the model's configuration: freeze it again with this one"
        )
    if differences := identity_differences(found, expected, "the snapshot"):
        raise MismatchError.of(f"{snapshot.path} is not of this engine", differences)


def identity_differences(
    found: Mapping[str, Any], expected: Mapping[str, JSON], what: str
) -> list[str]:
    """List the fields of an engine in which what was frozen differs, with both values.

    Args:
        found: the fields of what was frozen.
        expected: those of the engine that wants it.
        what: was frozen, for the lines.
    """
    return [
        line
        for field, value in expected.items()
        for line in (
            _config_differences(found.get(field), value, what)
            if field == _CONFIG
            else _field_differences(field, found.get(field), value, what)
        )
    ]


def _config_differences(recorded: Any, expected: Any, what: str) -> list[str]:
    if not is_recorded(recorded):
        return [f"{_CONFIG} is not recorded in {what}"]
    here = Configuration(expected["stated"], expected["defaults"])
    return [
        f"{_CONFIG}.{key} {theirs} in {what}, {ours} in this engine ({_ADVICE[_CONFIG]})"
        for key, theirs, ours in compare_configurations(recorded, here)
    ]


def _field_differences(field: str, recorded: object, expected: JSON, what: str) -> list[str]:
    if recorded == expected:
        return []
    said = "not recorded" if recorded is None else recorded
    advice = f" ({_ADVICE[field]})" if field in _ADVICE else ""
    return [f"{field} is {said} in {what}, {expected} in this engine{advice}"]


def _recorded(snapshot: Snapshot) -> Mapping[str, Any]:
    found = snapshot.metadata.get(_KEY)
    if not isinstance(found, Mapping):
        raise MismatchError(
            f"{snapshot.path} was not frozen from a vLLM engine: freeze one with `thaw freeze"
            " --model` or thaw_vllm.freeze_engine"
        )
    return found


def _implementation(model_config: ModelConfig) -> str:
    """Name the class that vLLM runs a model by, and what it makes of it."""
    made = str(model_config.convert_type)
    suffix = "" if made == "none" else f" as {made}"
    return f"{model_config.architecture}{suffix}"


def _replica(vllm_config: VllmConfig, model_config: ModelConfig) -> str:
    replica = replica_of(vllm_config)
    # Replicas of other models are alike.
    return _said(replica if replica.size > 1 and model_config.is_moe else None)


def _placement(vllm_config: VllmConfig) -> str:
    """Say how experts are dealt out to ranks, where it is not in the usual way."""
    parallel = vllm_config.parallel_config
    way = str(getattr(parallel, "expert_placement_strategy", _LINEAR))
    return f", {way}" if parallel.enable_expert_parallel and way != _LINEAR else ""


def _said(place: RankOf | None) -> str:
    return "none" if place is None else f"{place.rank} of {place.size}"


def _device() -> str:
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    version = f" {capability.as_version_str()}" if capability else ""
    return f"{current_platform.device_type}{version}"


def _attention(vllm_config: VllmConfig) -> str:
    """Name the attention backends of a model's layers, which are there once it is built."""
    layers = vllm_config.compilation_config.static_forward_context.values()
    found = {
        layer.get_attn_backend().get_name()
        for layer in layers
        if hasattr(layer, "get_attn_backend")
    }
    return "+".join(sorted(found)) or "none"
