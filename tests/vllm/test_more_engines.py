"""Real engines beyond those of every run: other ways into the same faults, and other modes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import thaw

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.matrix]
LIMIT_S = 900
TWO = {"tensor_parallel_size": 2}
UNPACKED = {"worker_extension_cls": "extension.Extension"}
LLAMA = {"model": "llama", "snapshot": "llama.thaw"}
SERVED = ["--model=llama", "--dtype=float32", "--load-format=thaw", "--model-loader-extra-config"]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model": "qwen2"}, "Qwen2ForCausalLM in this engine"),
    "another dtype": ({"dtype": "float32"}, "dtype is bfloat16 in the snapshot, float32 in this"),
    "a flipped bit": ({"snapshot": "flipped.thaw"}, "is damaged: it fails its CRC32C"),
    "two ranks": (TWO, "rank is 0 of 1 in the snapshot, 0 of 2 in this engine"),
}
MODES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float32, two ranks": {"dtype": "float32", **TWO},
    "processed, two ranks": {"stage": "processed", **TWO},
}


def _mode(label: str, options: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Freeze and load in a way of its own, beside what the default loader does."""
    stage = options.get("stage", "loaded")
    engine = {key: value for key, value in options.items() if key != "stage"} | UNPACKED
    path = f"{label}.thaw"
    return [
        (f"{label}: default", "start", {"model": "llama", **engine}),
        (f"{label}: expected", "decode", {}),
        (f"{label}: default stopped", "stop", {}),
        (f"{label}: frozen", "freeze", {"model": "llama", "path": path, "stage": stage, **engine}),
        (
            f"{label}: loaded",
            "load",
            {"model": "llama", "snapshot": path, "verify": True, **engine},
        ),
        (f"{label}: decoded", "decode", {}),
        (f"{label}: stopped", "stop", {}),
    ]


REPLICAS = ["--data-parallel-size=2"]


def _served(model: str, snapshot: str = "llama") -> list[str]:
    extra = json.dumps({"snapshot": f"{snapshot}.thaw"})
    return [f"--model={model}", "--load-format=thaw", "--model-loader-extra-config", extra]


STEPS = [
    ("llama", "save", {"name": "llama"}),
    ("qwen2", "save", {"name": "qwen2"}),
    ("frozen", "freeze", {"model": "llama", "path": "llama.thaw"}),
    ("flipped", "flip", {"source": "llama.thaw", "path": "flipped.thaw"}),
    ("apart", "multiprocessing", {"on": True}),
    (
        "refused by a server",
        "serve",
        {"options": [*SERVED, json.dumps({"snapshot": "llama.thaw"})]},
    ),
    ("experts", "save_small", {"name": "qwen3-moe"}),
    ("experts frozen", "freeze", {"model": "qwen3-moe", "path": "experts.thaw"}),
    ("one served", "serve", {"options": _served("llama")}),
    ("replicas served", "serve", {"options": [*_served("llama"), *REPLICAS]}),
    ("replicas with experts", "serve", {"options": [*_served("qwen3-moe", "experts"), *REPLICAS]}),
    *((label, "load", LLAMA | options) for label, (options, _) in FAULTS.items()),
    ("killed", "freeze", {"model": "llama", "path": "deadly.thaw", **TWO, **UNPACKED}),
    *(step for label, options in MODES.items() for step in _mode(label, options)),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("more-engines", STEPS, limit_s=LIMIT_S)


@pytest.mark.parametrize("mode", MODES)
def test_decodes_what_the_default_loader_s_weights_decode(answers: Any, mode: str) -> None:
    assert answers.value(f"{mode}: decoded") == answers.value(f"{mode}: expected")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_ends_an_engine_apart_and_is_named(answers: Any, fault: str) -> None:
    assert "Engine core initialization failed" in answers[fault].error
    assert FAULTS[fault][1] in answers[fault].error


def test_a_server_ends_when_its_snapshot_does_not_fit(answers: Any) -> None:
    served = answers["refused by a server"]
    assert served.error == "RuntimeError: the server ended with status 1"
    assert "dtype is bfloat16 in the snapshot, float32 in this engine" in served.log


def test_replicas_of_a_dense_model_load_one_snapshot(answers: Any) -> None:
    assert answers.value("replicas served") == answers.value("one served")


def test_replicas_of_a_model_with_experts_are_refused_by_name(answers: Any) -> None:
    served = answers["replicas with experts"]
    assert served.error == "RuntimeError: the server ended with status 1"
    assert "data_parallel is none in the snapshot, 1 of 2 in this engine" in served.log


def test_a_worker_that_dies_while_a_folder_is_frozen_leaves_no_snapshot(answers: Any) -> None:
    assert answers["killed"].error
    with pytest.raises(FileNotFoundError):
        thaw.open(answers.folder / "deadly.thaw", rank=0)
