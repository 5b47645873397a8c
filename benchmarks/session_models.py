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
_MODELS: Mapping[str, tuple[str, Config]] = {
    "llama": ("LlamaConfig", {}),
    "gemma2": ("Gemma2Config", _WINDOW | _LAYERS),
    "gemma3": ("Gemma3TextConfig", _WINDOW | _LAYERS | {"query_pre_attn_scalar": 64}),
    "gpt-oss": ("GptOssConfig", _WINDOW | _LAYERS | _EXPERTS | {"intermediate_size": 256}),
    "deepseek-v2": ("DeepseekV2Config", ARCHITECTURES["deepseek-v2"][1]),
    "mixtral": ("MixtralConfig", _EXPERTS),
}
CASES: Mapping[str, tuple[str, Config]] = {
    **{name: (name, {}) for name in _MODELS},
    "llama, keys and values in fp8": ("llama", {"kv_cache_dtype": "fp8"}),
    "llama, prefill in chunks": ("llama", {"max_num_batched_tokens": 256}),
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
