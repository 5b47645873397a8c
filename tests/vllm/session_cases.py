"""Small models with random weights whose sessions are compared, one for each kind of cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import small_models
from small_models import SIZES, Small

WINDOW = 128
_SLIDING, _FULL = "sliding_attention", "full_attention"
_HEADS = SIZES | {"head_dim": 64}
_GEMMA = _HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 64, "num_hidden_layers": 4}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# So small a state, and so large keys and values, that a block of 32 tokens holds either.
_LINEAR = {"linear_num_key_heads": 1, "linear_num_value_heads": 1, "num_key_value_heads": 4}
_NEXT = small_models.MODELS["qwen3-next"]

MODELS: Mapping[str, Small] = {
    "grouped": Small(config="LlamaConfig", settings=SIZES),
    "multi-head": Small(config="LlamaConfig", settings=SIZES | {"num_key_value_heads": 4}),
    "qwen3": Small(config="Qwen3Config", settings=_HEADS),
    "latent": small_models.MODELS["deepseek-v2-yarn"],
    "gemma2": Small(config="Gemma2Config", settings=_GEMMA),
    # One group of layers that see all, three of a layer each that see a window.
    "gemma3": Small(
        config="Gemma3TextConfig", settings=_GEMMA | {"layer_types": [_SLIDING] * 3 + [_FULL]}
    ),
    "windows-alone": Small(config="Gemma3TextConfig", settings=_GEMMA | {"num_hidden_layers": 2}),
    "gpt-oss": Small(
        config="GptOssConfig",
        settings=_HEADS | _EXPERTS | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    ),
    "shared-caches": Small(
        config="Gemma3nTextConfig",
        settings=_HEADS
        | {
            "num_hidden_layers": 5,
            "num_kv_shared_layers": 2,
            "layer_types": [_SLIDING, _FULL, _FULL, _SLIDING, _FULL],
            "sliding_window": WINDOW,
            "vocab_size_per_layer_input": SIZES["vocab_size"],
            "hidden_size_per_layer_input": 32,
            "laurel_rank": 16,
            "intermediate_size": [512] * 5,
            "activation_sparsity_pattern": [0.0] * 5,
        },
    ),
    "chunked-local": Small(
        config="Llama4TextConfig",
        settings=_HEADS
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 64,
            "intermediate_size_mlp": 512,
            "layer_types": ["chunked_attention", _FULL],
            "no_rope_layers": [1, 0],
        },
    ),
    "qwen3-next": replace(_NEXT, settings={**_NEXT.settings, **_LINEAR}),
}


def save(name: str, folder: Path) -> None:
    """Write the checkpoint of one of them, the same one each time."""
    small_models.write(MODELS[name], folder)


def prompt(seed: int, tokens: int) -> list[int]:
    """Make a prompt that shares no token with those of other seeds, place by place."""
    vocabulary: int = SIZES["vocab_size"] - 3
    return [(place * 37 + seed * 101) % vocabulary + 3 for place in range(tokens)]


def connector(folder: str, **extra: Any) -> dict[str, Any]:
    """Make the `kv_transfer_config` of an engine with sessions in a folder."""
    return {
        "kv_connector": "ThawConnector",
        "kv_connector_module_path": "thaw_vllm",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"sessions": folder, "any_path": True, **extra},
    }
