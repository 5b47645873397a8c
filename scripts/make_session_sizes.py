"""Make the table of docs/sessions.md from what models' configurations say (`--check` compares)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

FOLDER = Path(__file__).parents[1] / "docs"
PAGE, MODELS = FOLDER / "sessions.md", FOLDER / "models.json"
BEGIN, END = "<!-- made by scripts/make_session_sizes.py -->", "<!-- end -->"
ITEMSIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
LENGTHS = (1_000, 32_000, 100_000)
HEAD = ("model", "layers", "bytes a token and layer", "bytes a token", "sliding layers, at most")


@dataclass(frozen=True, slots=True)
class Model:
    """What a model's cache holds.

    Attributes:
        full: how many layers attend to all tokens.
        sliding: how many attend to a window.
        layer_nbytes: bytes of a token's keys and values in a layer.
        window: in tokens; 0 if there is none.
        longest: how many tokens the model is made for.
    """

    full: int
    sliding: int
    layer_nbytes: int
    window: int
    longest: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Take it from a `config.json`."""
        layers, itemsize = config["num_hidden_layers"], ITEMSIZES[config["torch_dtype"]]
        pattern = config.get("sliding_window_pattern", 1)
        full = layers // pattern
        return cls(
            full=full,
            sliding=layers - full,
            layer_nbytes=_elements(config) * itemsize,
            window=config.get("sliding_window", 0),
            longest=config["max_position_embeddings"],
        )

    @property
    def token_nbytes(self) -> int:
        """Bytes a token, in the layers with full attention."""
        return self.full * self.layer_nbytes

    def window_tokens(self, block_tokens: int) -> int:
        """How many tokens the blocks hold that cover a window but for its newest token."""
        return -(-max(self.window - 1, 0) // block_tokens) * block_tokens

    def nbytes(self, tokens: int, block_tokens: int) -> int:
        """Bytes of the blocks of a session, of which there are whole ones alone."""
        whole = tokens // block_tokens * block_tokens
        kept = min(whole, self.window_tokens(block_tokens))
        return whole * self.token_nbytes + kept * self.sliding * self.layer_nbytes


def _elements(config: Mapping[str, Any]) -> int:
    """Count what a layer keeps of a token: keys and values, or what MLA compresses them to."""
    if "kv_lora_rank" in config:
        return int(config["kv_lora_rank"] + config["qk_rope_head_dim"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(2 * config["num_key_value_heads"] * head_dim)


def table(found: Mapping[str, Any]) -> str:
    """Return the table as Markdown."""
    block_tokens = found["block_tokens"]
    head = [*HEAD, *(f"{each:,} tokens" for each in LENGTHS)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name, config in found["models"].items():
        model = Model.of(config)
        layers = f"{model.full} + {model.sliding}" if model.sliding else f"{model.full}"
        bound = model.window_tokens(block_tokens) * model.sliding * model.layer_nbytes
        cells = [name, layers, f"{model.layer_nbytes:,}", f"{model.token_nbytes:,}"]
        cells.append(size(bound) if bound else "")
        cells += (
            size(model.nbytes(each, block_tokens)) if each <= model.longest else ""
            for each in LENGTHS
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def size(nbytes: int) -> str:
    """Write bytes as MB or GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def page(text: str) -> str:
    """Put the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table(json.loads(MODELS.read_text()))}\n\n{END}{after}"


def main() -> int:
    text = PAGE.read_text()
    made = page(text)
    if "--check" in sys.argv[1:]:
        if text != made:
            print("docs/sessions.md is not what make_session_sizes.py makes", file=sys.stderr)
        return int(text != made)
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
