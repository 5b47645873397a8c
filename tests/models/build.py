"""Small models of real architectures with random weights, and their outputs."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
SEED_OF_THE_FROZEN = 1


def _causal(kind: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(**(SMALL | options))
        return getattr(transformers, f"{kind}ForCausalLM")(config)

    return build


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=256, n_positions=128
    )
    return transformers.GPT2LMHeadModel(config)


class Fp8Linear(nn.Module):
    """A linear layer with fp8 weights and a scale for each row."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 448
        weight = (layer.weight.detach() / scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.to(x.dtype) * self.scale).T


def _fp8() -> nn.Module:
    model = _causal("Llama")()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(module, name, Fp8Linear(child))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": _causal("Llama"),
    "llama-tied": _causal("Llama", tie_word_embeddings=True),
    "llama-bf16": lambda: _causal("Llama")().to(torch.bfloat16),
    "llama-fp8": _fp8,
    "gpt2": _gpt2,
    "mixtral": _causal("Mixtral", num_local_experts=4),
    "qwen2": _causal("Qwen2"),
    "gemma2": _causal("Gemma2", head_dim=16),
    "phi3": _causal("Phi3"),
}


def build(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name]().eval()


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Digest every parameter, every buffer and the logits, bit by bit."""
    from thaw.tensors.elements import bytes_of

    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    with torch.no_grad():
        logits = model(torch.arange(24).reshape(2, 12)).logits
    return {
        name: f"{tensor.dtype} {tuple(tensor.stride())} {sha256(bytes_of(tensor))}"
        for name, tensor in [*named, ("logits", logits)]
    }


def sha256(data: torch.Tensor) -> str:
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def main(name: str, path: str) -> None:
    """Restore into a freshly built model of other weights, and print its fingerprint."""
    import json

    import thaw

    model = build(name, SEED_OF_THE_FROZEN + 1)
    before = fingerprint(model)
    thaw.restore(Path(path), into=model)
    print(json.dumps({"before": before, "after": fingerprint(model)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
