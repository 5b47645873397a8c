"""What a snapshot of an engine depends on: recorded when it is frozen, checked before it is loaded.

A `loaded` snapshot was taken before vLLM processed the weights, and depends on how vLLM lays a
model out; a `processed` one was taken from a live engine, and depends on its kernels as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from thaw_format import JSON, Place, Shard, Snapshot

from ..errors import MismatchError

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

LOADED, PROCESSED = "loaded", "processed"
KINDS = (LOADED, PROCESSED)
_KEY = "vllm"
_PASSING = frozenset({"_name_or_path", "name_or_path", "transformers_version"})
"""Keys of a model's configuration that say where it came from, not what it is."""
_DTYPE = frozenset({"dtype", "torch_dtype"})
"""Keys that are set while a model is built: what it runs in has a field of its own."""

_ADVICE = {
    "model": "it is another model's snapshot",
    "config": "the model's configuration differs; freeze this model to a snapshot of its own",
    "dtype": "pass dtype= as it was when the snapshot was frozen",
    "quantization": "pass quantization= as it was when the snapshot was frozen",
    "rank": "a snapshot is loaded with as many ranks as it was frozen with",
    "tensor_parallel": "a snapshot is loaded with the tensor_parallel_size it was frozen with",
    "pipeline_parallel": "a snapshot is loaded with the pipeline_parallel_size it was frozen with",
    "expert_parallel": "pass enable_expert_parallel= as it was when the snapshot was frozen",
    "vllm": "other releases may lay weights out in another way; freeze again with this one",
    "torch": "processed weights belong to the torch that they were processed with; freeze again",
    "device": "processed weights belong to the kind of device; freeze again here",
    "attention": "processed weights belong to the attention backend; choose it or freeze again",
}


def rank_shard(vllm_config: VllmConfig, rank: int) -> Shard:
    """Place a worker's rank among those of its engine."""
    parallel = vllm_config.parallel_config
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    expert = Place(rank % tp, tp) if parallel.enable_expert_parallel else None
    return Shard(rank, tp * pp, Place(rank % tp, tp), Place(rank // tp, pp), expert)


def identify(
    vllm_config: VllmConfig, model_config: ModelConfig, rank: int, kind: str
) -> dict[str, str]:
    """Say what a snapshot of one rank depends on, field by field."""
    import vllm

    config = model_config.hf_config.to_dict()
    shard = rank_shard(vllm_config, rank)
    fields = {
        "model": "+".join(map(str, config.get("architectures") or [type(config).__name__])),
        "config": _digest(config),
        "dtype": str(model_config.dtype).removeprefix("torch."),
        "quantization": str(model_config.quantization or "none"),
        "rank": _said(Place(shard.rank, shard.size)),
        "tensor_parallel": _said(shard.tp),
        "pipeline_parallel": _said(shard.pp),
        "expert_parallel": _said(shard.ep),
        "vllm": vllm.__version__,
    }
    if kind == PROCESSED:
        fields |= {
            "torch": torch.__version__,
            "device": _device(),
            "attention": _attention(vllm_config),
        }
    return fields


def record(
    kind: str,
    identity: Mapping[str, str],
    floats: Mapping[str, float],
    kernels: list[JSON] | None = None,
) -> dict[str, JSON]:
    """Make a snapshot's metadata. Floats are said in hexadecimal, to the last bit.

    Args:
        kernels: what the weights were processed for; None before they are processed.
    """
    said: dict[str, JSON] = {name: value.hex() for name, value in floats.items()}
    more: dict[str, JSON] = {} if kernels is None else {"kernels": kernels}
    return {_KEY: {"kind": kind, "identity": dict(identity), "floats": said, **more}}


def kind_of(snapshot: Snapshot) -> str:
    """Return "loaded" or "processed".

    Raises:
        MismatchError: the snapshot is not of a vLLM engine.
    """
    kind = _recorded(snapshot).get("kind")
    if kind not in KINDS:
        raise MismatchError(
            f"{snapshot.path} says that it is of kind {kind!r}, expected one of {', '.join(KINDS)}"
        )
    return str(kind)


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


def check_identity(snapshot: Snapshot, expected: Mapping[str, str]) -> None:
    """Compare what a snapshot was frozen from with the engine that wants it.

    Raises:
        MismatchError: fields differ; each is named, with both values and what to do.
    """
    found = _recorded(snapshot).get("identity", {})
    differences = [
        f"{field} is {found.get(field, 'not recorded')!s} in the snapshot, {value} in this engine"
        f" ({_ADVICE[field]})"
        for field, value in expected.items()
        if found.get(field) != value
    ]
    if differences:
        raise MismatchError.of(f"{snapshot.path} is not of this engine", differences)


def _recorded(snapshot: Snapshot) -> Mapping[str, Any]:
    found = snapshot.metadata.get(_KEY)
    if not isinstance(found, Mapping):
        raise MismatchError(
            f"{snapshot.path} was not frozen from a vLLM engine: freeze one with `thaw freeze"
            " --model` or thaw_vllm.freeze_model_tp"
        )
    return found


def _digest(config: Mapping[str, Any]) -> str:
    said = json.dumps(_kept(config), sort_keys=True, default=str).encode()
    return hashlib.sha256(said).hexdigest()[:16]


def _kept(value: Any) -> Any:
    """Leave out what does not count, of a configuration and of those inside of it."""
    if isinstance(value, Mapping):
        # Others, like that of a quantization, may mean something else by the same keys.
        passed = _PASSING | _DTYPE if "model_type" in value else frozenset[str]()
        return {key: _kept(each) for key, each in value.items() if key not in passed}
    return [_kept(each) for each in value] if isinstance(value, (list, tuple)) else value


def _said(place: Place | None) -> str:
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
