"""Small models with random weights of many architectures, and how vLLM runs each.

Of most there is, beside the plain one, the variant whose configuration building it changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GENERATE, EMBED, CLASSIFY = "decode", "embed", "classify"
CAUSAL, ENCODER = "AutoModelForCausalLM", "AutoModel"
SEQUENCES = "AutoModelForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A small model: what of transformers makes it, and what vLLM is asked for.

    Attributes:
        config: the name of a class of configurations.
        kind: the class that makes the model.
        settings: of the configuration.
        written: what `config.json` says instead, as publishers of models write it; a key whose
            value is None is left out.
        does: what is compared of the engine's work.
        engine: options of vLLM.
        extra: tensors that are put into the checkpoint, by name, with their shapes.
    """

    config: str
    kind: str = CAUSAL
    settings: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    does: str = GENERATE
    engine: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_ALIKE = SIZES | {"num_key_value_heads": 4}
_ENCODER = {key: SIZES[key] for key in SIZES if key != "num_key_value_heads"}
_GPT = {"vocab_size": 1024, "n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 1024}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_POOLING = {"runner": "pooling"}
_ORIGINAL = {"original_max_position_embeddings": 256}
_YARN = {"type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, **_ORIGINAL}


def _rope(scaling: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": dict(scaling)}


_MLA = _ALIKE | {
    "kv_lora_rank": 512,
    "q_lora_rank": 128,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": False,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "decoder_sparse_step": 1,
}
_SHARED = _EXPERTS | {"shared_expert_intermediate_size": 128}
_DEEPSEEK = Small(
    config="DeepseekV3Config",
    settings=_MLA | {"num_nextn_predict_layers": 0},
    written=_rope(_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0})
    | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
)
_LABELS = {"num_labels": 3}
_CLASSIFIER = Small(
    config="Qwen2Config",
    kind=SEQUENCES,
    settings=SIZES | _LABELS,
    does=CLASSIFY,
    engine=_POOLING,
    extra={"score.bias": (3,)},
)
_GEMMA3 = SIZES | {"head_dim": 64, "sliding_window": 128, "query_pre_attn_scalar": 64}
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
_PHI = SIZES | {"num_key_value_heads": 4}

MODELS: Mapping[str, Small] = {
    "deepseek-v3-yarn": _DEEPSEEK,
    "deepseek-v2-yarn": Small(
        config="DeepseekV2Config",
        settings=_MLA | {"q_lora_rank": None, "topk_method": "greedy"},
        written=_rope(_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}),
    ),
    "qwen2-classifier-with-bias": _CLASSIFIER,
    "phi-by-transformers": Small(
        config="PhiConfig", settings=_PHI, engine={"model_impl": "transformers"}
    ),
    "phi": Small(config="PhiConfig", settings=_PHI),
    "opt": Small(
        config="OPTConfig",
        settings=_TOKENS
        | {
            "vocab_size": 1024,
            "hidden_size": 256,
            "word_embed_proj_dim": 256,
            "ffn_dim": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 1024,
        },
    ),
    "gpt-neox": Small(config="GPTNeoXConfig", settings=_ENCODER),
    "gpt-neox-linear": Small(
        config="GPTNeoXConfig",
        settings=_ENCODER,
        written={
            "rope_parameters": None,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
    ),
    "bloom": Small(
        config="BloomConfig",
        settings=_TOKENS | {"vocab_size": 1024, "hidden_size": 256, "n_layer": 2, "n_head": 4},
    ),
    "falcon": Small(config="FalconConfig", settings=_ENCODER),
    "falcon-alibi": Small(
        config="FalconConfig", settings=_ENCODER | {"alibi": True, "multi_query": False}
    ),
    "falcon-new-decoder": Small(
        config="FalconConfig",
        settings=_ENCODER | {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "gpt-bigcode": Small(config="GPTBigCodeConfig", settings=_GPT | _TOKENS),
    "starcoder2": Small(config="Starcoder2Config", settings=SIZES | {"sliding_window": None}),
    "gemma": Small(config="GemmaConfig", settings=SIZES | {"head_dim": 64}),
    "gemma3": Small(config="Gemma3TextConfig", settings=_GEMMA3),
    "gemma3-linear": Small(
        config="Gemma3TextConfig",
        settings=_GEMMA3,
        written=_rope({"rope_type": "linear", "factor": 8.0}) | {"rope_local_base_freq": 10000.0},
    ),
    "qwen2-moe": Small(config="Qwen2MoeConfig", settings=SIZES | _SHARED),
    "qwen3-moe": Small(config="Qwen3MoeConfig", settings=SIZES | _EXPERTS | {"head_dim": 64}),
    "qwen3-next": Small(
        config="Qwen3NextConfig",
        settings=SIZES
        | _SHARED
        | {
            "head_dim": 64,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
        },
    ),
    "olmo2": Small(config="Olmo2Config", settings=SIZES),
    "stablelm": Small(config="StableLmConfig", settings=_ALIKE),
    "cohere": Small(config="CohereConfig", settings=SIZES),
    "granite": Small(config="GraniteConfig", settings=SIZES),
    "glm4": Small(config="Glm4Config", settings=SIZES | {"head_dim": 64}),
    "glm4-moe": Small(
        config="Glm4MoeConfig",
        settings=SIZES
        | {
            "head_dim": 64,
            "moe_intermediate_size": 128,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 0,
        },
    ),
    "mamba2": Small(
        config="Mamba2Config",
        settings=_TOKENS
        | {
            "vocab_size": 1024,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 64,
            "state_size": 64,
            "n_groups": 1,
        },
    ),
    "llama-yarn": Small(config="LlamaConfig", settings=SIZES, written=_rope(_YARN)),
    "llama-dynamic": Small(
        config="LlamaConfig", settings=SIZES, written=_rope({"type": "dynamic", "factor": 2.0})
    ),
    "llama-3": Small(
        config="LlamaConfig",
        settings=SIZES,
        written=_rope(
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                **_ORIGINAL,
            }
        ),
    ),
    "phi3-longrope": Small(
        config="Phi3Config", settings=_PHI | _ORIGINAL, written=_rope(_LONG) | _ORIGINAL
    ),
    "llama-untied-by-checkpoint": Small(
        config="LlamaConfig",
        settings=SIZES | {"tie_word_embeddings": True},
        extra={"lm_head.weight": (1024, 256)},
    ),
    "bert": Small(config="BertConfig", kind=ENCODER, settings=_ENCODER, does=EMBED),
    "minilm": Small(
        config="BertConfig", kind=ENCODER, settings=_ENCODER | {"hidden_size": 128}, does=EMBED
    ),
    "bert-classifier": Small(
        config="BertConfig", kind=SEQUENCES, settings=_ENCODER | _LABELS, does=CLASSIFY
    ),
    "roberta": Small(config="RobertaConfig", kind=ENCODER, settings=_ENCODER, does=EMBED),
    "roberta-reranker": Small(
        config="XLMRobertaConfig",
        kind=SEQUENCES,
        settings=_ENCODER | {"num_labels": 1},
        does=CLASSIFY,
    ),
    "modernbert": Small(config="ModernBertConfig", kind=ENCODER, settings=_ENCODER, does=EMBED),
    "modernbert-classifier": Small(
        config="ModernBertConfig", kind=SEQUENCES, settings=_ENCODER | _LABELS, does=CLASSIFY
    ),
    "qwen3-embedder": Small(
        config="Qwen3Config",
        settings=SIZES | {"head_dim": 64},
        does=EMBED,
        engine=_POOLING | {"convert": "embed"},
    ),
    "qwen2-classifier": Small(
        config="Qwen2Config", kind=SEQUENCES, settings=SIZES | _LABELS, does=CLASSIFY
    ),
    "qwen2-reward": Small(
        config="Qwen2Config",
        settings=SIZES,
        written={"architectures": ["Qwen2ForRewardModel"]},
        does=EMBED,
        engine=_POOLING,
        extra={
            "score.0.weight": (256, 256),
            "score.0.bias": (256,),
            "score.2.weight": (1, 256),
            "score.2.bias": (1,),
        },
    ),
    "llama-reward": Small(
        config="LlamaConfig", kind=SEQUENCES, settings=SIZES | {"num_labels": 1}, does=CLASSIFY
    ),
}
ALWAYS = ("deepseek-v3-yarn", "qwen2-classifier-with-bias", "llama-untied-by-checkpoint")
"""What every run compares; the others are for the matrix."""


def save(name: str, folder: Path) -> None:
    """Write the checkpoint of one of them, with random weights, the same ones each time."""
    write(MODELS[name], folder)


def write(small: Small, folder: Path) -> None:
    """Write the checkpoint of a small model."""
    import torch
    import transformers

    config = getattr(transformers, small.config)(**small.settings)
    torch.manual_seed(0)
    kind = getattr(transformers, small.kind)
    model = kind.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        # Biases and norms that are all alike would hide that they were mixed up.
        noise = torch.randn(parameter.shape, generator=generator) / 50
        parameter.data += noise.to(parameter.dtype)
    model.save_pretrained(folder)
    _rewrite(folder, small, generator)


def _rewrite(folder: Path, small: Small, generator: Any) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "config.json"
    said = {**json.loads(path.read_text()), **small.written}
    dropped = {key for key, value in small.written.items() if value is None}
    path.write_text(json.dumps({key: said[key] for key in said if key not in dropped}))
    if small.extra:
        tensors = load_file(folder / "model.safetensors")
        for name, shape in small.extra.items():
            tensors[name] = torch.randn(shape, generator=generator).to(torch.bfloat16)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
