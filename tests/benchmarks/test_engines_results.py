"""The committed comparisons cover what they have to, and all of them ended well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ARCHITECTURES = [
    *("llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "mixtral", "gpt2"),
]
TWO_RANKS = ["llama", "qwen2", "mixtral"]
QUANTIZED = ["llama-fp8", "llama-block", "llama-token", "llama-gptq", "llama-awq", "mixtral-fp8"]
GPU = ["engines.json", "engines_more.json", "engines_h200.json"]
DTYPES = ["bfloat16", "float32"]
KINDS = ["loaded", "processed"]
Key = tuple[str, str, str, int]


def rows(name: str) -> list[dict[str, Any]]:
    found = json.loads((RESULTS / name).read_text())["rows"]
    return [row for row in found if row["part"] == "decoding"]


def key(name: str, kind: str, engine: dict[str, Any]) -> Key:
    return name, kind, engine["dtype"], engine.get("tensor_parallel_size", 1)


def keys(name: str) -> list[Key]:
    return [key(row["case"], row["kind"], row["engine"]) for row in rows(name)]


def test_the_cpu_s_comparisons_cover_every_architecture_dtype_kind_and_two_ranks() -> None:
    ranks = [(name, 1) for name in ARCHITECTURES] + [(name, 2) for name in TWO_RANKS]
    wanted = {
        (name, kind, dtype, size) for name, size in ranks for kind in KINDS for dtype in DTYPES
    }
    assert wanted - set(keys("engines_cpu.json")) == set()


def test_the_cpu_s_comparisons_are_those_that_the_benchmark_makes(tmp_path: Path) -> None:
    from engine_cases import on_cpu

    made = [key(case.name, case.kind, dict(case.engine)) for case in on_cpu(tmp_path, {})]
    assert sorted(keys("engines_cpu.json")) == sorted(made)


def test_the_gpu_s_comparisons_cover_every_architecture_and_quantization() -> None:
    wanted = {
        (name, kind, "bfloat16", 1) for name in [*ARCHITECTURES, *QUANTIZED] for kind in KINDS
    }
    assert wanted - {each for name in GPU for each in keys(name)} == set()


@pytest.mark.parametrize("name", [*GPU, "engines_cpu.json"])
def test_every_comparison_ended_well(name: str) -> None:
    for row in rows(name):
        assert row["passed"], row
        assert row["tokens_equal"], row
        assert row["logprobs_equal"], row
        assert row["differences"] == [], row
        # Four prompts of 64 tokens each, and not always the same token.
        assert row["decoded_tokens"] == 256, row
        assert row["distinct_tokens"] > 4, row
        assert row["hot_restores"] == (row["kind"] == "processed"), row
        assert row["snapshot"]["ranks"] == row["engine"].get("tensor_parallel_size", 1), row


def test_the_weights_decide_what_is_decoded() -> None:
    decoded = {row["case"]: row["decoded_sha256"] for row in rows("engines_cpu.json")}
    assert len(set(decoded.values())) == len(decoded)


def test_every_mode_ended_well() -> None:
    rows = json.loads((RESULTS / "engine_modes.json").read_text())["rows"]
    assert {row["case"] for row in rows} == {"CUDA graphs", "sleep mode"}
    assert all(row["passed"] and all(row["found"].values()) for row in rows)


def test_what_counts_as_verified_was_compared() -> None:
    from thaw.vllm.weights.verified import VERIFIED

    compared = {name for file in GPU for row in rows(file) for name in row["kernels"]}
    # Of engines on a CPU each run of the tests compares these.
    assert VERIFIED - compared == {"CPUUnquantizedExperts"}
