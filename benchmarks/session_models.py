"""Models whose sessions are compared: small ones of each kind of cache, and shapes in use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from engine_models import ARCHITECTURES, EXPERTS, FULL, save_config

Config: TypeAlias = dict[str, Any]
SHAPES = (*FULL, EXPERTS)
"""Shapes in use; their weights are made up in the engine."""
POSITIONS = 131_072
_SIZES: Config = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_WINDOW: Config = {"head_dim": 64, "sliding_window": 128}
_LAYERS: Config = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_EXPERTS: Config = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA2: Config = {"n_groups": 1, "n_heads": 8, "d_head": 64, "d_state": 16, "chunk_size": 64}
_MAMBA: Config = {f"mamba_{key}": value for key, value in _MAMBA2.items()}
_MODELS: Mapping[str, tuple[str, Config]] = {
    "llama": ("LlamaConfig", {}),
    "gemma2": ("Gemma2Config", _WINDOW | _LAYERS),
    "gemma3": ("Gemma3TextConfig", _WINDOW | _LAYERS | {"query_pre_attn_scalar": 64}),
    "gpt-oss": ("GptOssConfig", _WINDOW | _LAYERS | _EXPERTS | {"intermediate_size": 256}),
    "deepseek-v2": ("DeepseekV2Config", ARCHITECTURES["deepseek-v2"][1]),
    "mixtral": ("MixtralConfig", _EXPERTS),
    "qwen3-next": (
        "Qwen3NextConfig",
        {
            "head_dim": 64,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4}
        | {"num_experts_per_tok": 2},
    ),
    "granite-4": (
        "GraniteMoeHybridConfig",
        {"layer_types": ["mamba", "attention"] * 2, "position_embedding_type": "rope"}
        | {"shared_intermediate_size": 256}
        | _EXPERTS
        | _MAMBA,
    ),
    "falcon-h1": ("FalconH1Config", _MAMBA | {"mamba_d_ssm": 512}),
    "mamba2": (
        "Mamba2Config",
        {"num_heads": 8, "head_dim": 64, "state_size": 16, "n_groups": 1, "chunk_size": 64},
    ),
    "lfm2": (
        "Lfm2Config",
        {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}
        | {"conv_dim": 256, "conv_L_cache": 3, "block_dim": 256},
    ),
}
_STATES: Config = {"block_size": 320}
"""A block is to hold a whole state, and the sessions are to be whole blocks."""
_ALIGNED: Config = _STATES | {"mamba_cache_mode": "align"}
CASES: Mapping[str, tuple[str, Config]] = {
    **{
        name: (name, {})
        for name in ("llama", "gemma2", "gemma3", "gpt-oss", "deepseek-v2", "mixtral")
    },
    "llama, keys and values in fp8": ("llama", {"kv_cache_dtype": "fp8"}),
    "llama, prefill in chunks": ("llama", {"max_num_batched_tokens": 256}),
    **{name: (name, _STATES) for name in ("granite-4", "falcon-h1", "mamba2", "lfm2")},
    "falcon-h1, states of steps": ("falcon-h1", _ALIGNED),
    "falcon-h1, captured graphs": ("falcon-h1", _STATES | {"enforce_eager": False}),
    "jamba, states of steps": ("jamba", _ALIGNED),
    # FlashInfer, which vLLM takes for these layers by itself, compiles as it runs.
    "qwen3-next": (
        "qwen3-next",
        _STATES | {"additional_config": {"gdn_prefill_backend": "triton"}},
    ),
}
"""What is compared of small models: the model, and options of the engine."""


def save(name: str, folder: Path) -> Config:
    """Write a model, or what describes it; return the options of an engine that takes it."""
    if name in SHAPES:
        save_config(name, folder, max_position_embeddings=POSITIONS)
        return {"model": str(folder), "load_format": "dummy"}
    import transformers

    kind, settings = _MODELS[name]
    config = getattr(transformers, kind)(**_SIZES | settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return {"model": str(folder)}
