"""Models with random weights for vLLM: small ones of each architecture, and shapes in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from llama import write_checkpoint

Config: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, torch.Tensor]


def _sizes(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, keys: int) -> Config:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "max_position_embeddings": 1024,
    }


_SMALL = _sizes(1024, 256, 512, 2, 4, 2)
_GPT2 = {"vocab_size": 1024, "n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 1024}
_DEEPSEEK: Config = _sizes(1024, 256, 512, 2, 4, 4) | {
    "kv_lora_rank": 512,
    "q_lora_rank": None,
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
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
}
ARCHITECTURES: Mapping[str, tuple[str, Config]] = {
    "llama": ("LlamaConfig", _SMALL),
    "llama-tied": ("LlamaConfig", _SMALL | {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", _SMALL),
    "qwen2": ("Qwen2Config", _SMALL),
    "qwen3": ("Qwen3Config", _SMALL | {"head_dim": 64}),
    "gemma2": ("Gemma2Config", _SMALL | {"head_dim": 64}),
    "phi3": ("Phi3Config", _SMALL | {"pad_token_id": 0}),
    "mixtral": ("MixtralConfig", _SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2Config", _GPT2 | {"bos_token_id": 0, "eos_token_id": 0}),
    "deepseek-v2": ("DeepseekV2Config", _DEEPSEEK),
}
"""Small models that `save` makes: the name of a configuration of transformers, and what it says."""

QUANTIZED = (
    *("llama-fp8", "llama-block", "llama-token", "llama-gptq", "llama-awq"),
    "mixtral-fp8",
)
"""Small checkpoints of quantized weights, which `save` makes as well."""

FULL: Mapping[str, tuple[str, Config]] = {
    "Llama-3.1-8B": ("LlamaConfig", _sizes(128_256, 4096, 14_336, 32, 32, 8)),
    "Mistral-7B": (
        "MistralConfig",
        _sizes(32_768, 4096, 14_336, 32, 32, 8) | {"sliding_window": None},
    ),
    "Qwen2.5-7B": ("Qwen2Config", _sizes(152_064, 3584, 18_944, 28, 28, 4)),
    "Gemma-2-9B": ("Gemma2Config", _sizes(256_000, 3584, 14_336, 42, 16, 8) | {"head_dim": 256}),
    "Phi-3-mini": ("Phi3Config", _sizes(32_064, 3072, 8192, 32, 32, 32) | {"pad_token_id": 0}),
}
"""Shapes of models in use, which `save_full` makes."""

LARGE: Mapping[str, tuple[str, Config]] = {
    "Llama-3-70B": ("LlamaConfig", _sizes(128_256, 8192, 28_672, 80, 64, 8)),
}
"""Shapes that fit no single device; `save_full` makes them too."""

EXPERTS = "Mixtral-8x7B, 4 layers"
"""A shape in use with fewer layers, which `save` makes."""
_EXPERTS = _sizes(32_000, 4096, 14_336, 4, 32, 8) | {"num_local_experts": 8}
_SAVED = {**ARCHITECTURES, EXPERTS: ("MixtralConfig", _EXPERTS)}

_GROUP = 128
"""How many weights of a column share a scale in GPTQ and AWQ."""


def save(
    name: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Write the checkpoint of a model of ours, the same one for the same seed and device."""
    from transformers import AutoModelForCausalLM

    base, _, quantization = name.partition("-") if name in QUANTIZED else (name, "", "")
    config = (
        _config("MixtralConfig", _EXPERTS) if name == EXPERTS else _config(*ARCHITECTURES[base])
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    if quantization:
        _quantize(folder, quantization)


def save_full(name: str, folder: Path, device: torch.device) -> None:
    """Write the checkpoint of a model in use, with random weights in bf16, in four shards."""
    from transformers import AutoModelForCausalLM

    config = _config(*{**FULL, **LARGE}[name])
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if key not in tied
    }
    write_checkpoint(_Made(shapes, device), folder)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def save_config(name: str, folder: Path, **changes: Any) -> None:
    """Write what describes a model, for an engine that makes its weights up."""
    from transformers import AutoModelForCausalLM

    kind, settings = {**FULL, **LARGE, **_SAVED}[name]
    config = _config(kind, settings | changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.save_pretrained(folder)


def _config(kind: str, settings: Config) -> Any:
    import transformers

    return getattr(transformers, kind)(**settings)


class _Made(Mapping[str, torch.Tensor]):
    """Random weights, each made when it is asked for: all at once may not fit the device."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._shapes, self._generator = shapes, torch.Generator(device)
        self._seeds = {name: seed for seed, name in enumerate(shapes)}

    def __getitem__(self, name: str) -> torch.Tensor:
        shape, generator = self._shapes[name], self._generator
        made = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
        if len(shape) == 1:
            return made.fill_(0.0 if name.endswith("bias") else 1.0)
        return made.normal_(std=0.02, generator=generator.manual_seed(self._seeds[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _quantize(folder: Path, quantization: str) -> None:
    """Replace the linear layers of a checkpoint by random quantized ones."""
    from safetensors.torch import load_file, save_file

    layer, how = _QUANTIZATIONS[quantization]
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(_LINEAR):
            stem = name.removesuffix("weight")
            made = layer(tensor, generator)
            tensors |= {stem + part: each.contiguous() for part, each in made.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": how}))


_LINEAR = ("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")
_FP8 = {"quant_method": "fp8", "activation_scheme": "static"}
_BLOCK = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [_GROUP, _GROUP],
}
_EIGHT_BITS = {"num_bits": 8, "type": "float", "symmetric": True}
_TOKEN = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _EIGHT_BITS | {"strategy": "channel", "dynamic": False},
            "input_activations": _EIGHT_BITS | {"strategy": "token", "dynamic": True},
        }
    },
}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "desc_act": False, "sym": True}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": _GROUP, "zero_point": True}


def _fp8(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    scale = weight.abs().max().float() / 448.0
    return {
        "weight": (weight.float() / scale).to(torch.float8_e4m3fn),
        "weight_scale": scale,
        "input_scale": torch.rand((), generator=generator) / 50 + 0.01,
    }


def _block(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    rows, columns = (size // _GROUP for size in weight.shape)
    blocks = weight.float().view(rows, _GROUP, columns, _GROUP)
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448.0
    return {
        "weight": (blocks / scale).view(weight.shape).to(torch.float8_e4m3fn),
        "weight_scale_inv": scale.view(rows, columns),
    }


def _token(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    scale = weight.float().abs().amax(1, keepdim=True) / 448.0
    return {
        "weight": (weight.float() / scale).to(torch.float8_e4m3fn),
        "weight_scale": scale.to(torch.bfloat16),
    }


def _gptq(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    rows, columns = weight.shape[1], weight.shape[0]
    groups = rows // _GROUP
    return {
        "qweight": _bits((rows // 8, columns), generator),
        "qzeros": torch.full((groups, columns // 8), 0x77777777, dtype=torch.int32),
        "scales": _scales(groups, columns, generator),
        "g_idx": torch.arange(rows, dtype=torch.int32) // _GROUP,
    }


def _awq(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    rows, columns = weight.shape[1], weight.shape[0]
    groups = rows // _GROUP
    return {
        "qweight": _bits((rows, columns // 8), generator),
        "qzeros": _bits((groups, columns // 8), generator),
        "scales": _scales(groups, columns, generator),
    }


def _bits(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-(1 << 31), 1 << 31, shape, generator=generator).to(torch.int32)


def _scales(groups: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(groups, columns, generator=generator) * 0.004 + 0.001).half()


_QUANTIZATIONS: Mapping[str, tuple[Callable[[torch.Tensor, torch.Generator], Tensors], Config]] = {
    "fp8": (_fp8, _FP8),
    "block": (_block, _BLOCK),
    "token": (_token, _TOKEN),
    "gptq": (_gptq, _GPTQ),
    "awq": (_awq, _AWQ),
}
"""For each word in a model's name what makes a layer of it, and what the configuration says."""
