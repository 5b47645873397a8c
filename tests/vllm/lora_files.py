"""LoRA adapters with random weights, for models like Llama."""

from __future__ import annotations

import json
from pathlib import Path

RANK = 4


def save(model: Path, folder: Path, seed: int) -> None:
    """Write an adapter of the attention's query and value, as publishers write them."""
    import torch
    from safetensors.torch import save_file

    said = json.loads((model / "config.json").read_text())
    hidden, heads = said["hidden_size"], said["num_attention_heads"]
    head = said.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head, "v_proj": said["num_key_value_heads"] * head}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(said["num_hidden_layers"]):
        for part, width in widths.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            for side, shape in (("A", (RANK, hidden)), ("B", (width, RANK))):
                made = torch.randn(shape, generator=generator).to(torch.bfloat16)
                tensors[f"{stem}.lora_{side}.weight"] = made
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": RANK,
                "lora_alpha": 2 * RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": sorted(widths),
                "task_type": "CAUSAL_LM",
            }
        )
    )
