"""Sessions of a server over HTTP, and of an AsyncLLM whose requests are aborted and preempted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 400
FAULTS = {"worker_extension_cls": "session_faults.Faults"}
SERVED = {
    "model": "llama",
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 256,
    "kv_cache_memory_bytes": 64 << 20,
    "block_size": 32,
    "gpu_memory_utilization": 0.3,
    "dtype": "bfloat16",
}
CONNECTOR = {
    "kv_connector": "ThawConnector",
    "kv_connector_module_path": "thaw_vllm",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {"sessions": "./served"},
}


def prompt(seed: int, tokens: int = 200) -> list[int]:
    """Make a prompt up; those of other seeds have no block in common."""
    return [(seed * 37 + index * 7) % 1000 + 1 for index in range(tokens)]


def freeze(name: str) -> dict[str, Any]:
    return {"thaw": {"freeze": name}}


NAMES = ["../x", "/etc/x.thaw", "a/b", "served/.x.thaw", ".x", "x.safetensors", "\0", "x" * 300, ""]
RAW = ['{"thaw": {"freeze": "\\ud800"}}', '{"thaw": {"restore": "./served/\\u0000.thaw"}}']
ODD = [{"thaw": 5}, {"thaw": {"freeze": 5}}, {"thaw": {"fries": "x"}}, {"thaw": {"tokens": -1}}]
ODD += [{"thaw": {"restore": "../../etc/passwd"}}, {"thaw": {"restore": "nobody"}}]
BEFORE: list[Any] = [
    [prompt(1), None],
    [prompt(1), freeze("alice")],
    *([prompt(1), freeze(name)] for name in NAMES),
    *([prompt(1), each] for each in (*RAW, *ODD)),
    [prompt(1), None],
]
AFTER: list[Any] = [[prompt(1), None], [[*prompt(1), 5], {"thaw": {"skip": True}}], 1.0]
ALICE = {"prompt": prompt(1)}
STEPS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "save", {"name": "llama"}),
    ("before", "over_http", {"engine": SERVED, "connector": CONNECTOR, "calls": BEFORE}),
    ("after", "over_http", {"engine": SERVED, "connector": CONNECTOR, "calls": AFTER}),
    (
        "started",
        "serve_sessions_async",
        {"model": "llama", "num_gpu_blocks_override": 24, **FAULTS},
    ),
    ("cold", "send", {"prompts": [prompt(1)]}),
    ("frozen", "freeze_async", {**ALICE, "path": "sessions/alice.thaw"}),
    ("reset", "reset_async", {}),
    ("restored", "restore_async", {"path": "sessions/alice.thaw"}),
    ("hit", "send", {"prompts": [prompt(1)]}),
    ("reset again", "reset_async", {}),
    ("slow", "meet_async", {"verb": "slow loads", "argument": 1.0}),
    ("aborted load", "send_and_abort", {**ALICE, "after_s": 0.3, "others": 2}),
    ("slower", "meet_async", {"verb": "slow freezes", "argument": 1.0}),
    ("left alone", "send", {"prompts": [prompt(2)], "asked": {"freeze": "bob"}}),
    ("pressed", "send", {"prompts": [prompt(seed) for seed in range(3, 11)]}),
    (
        "aborted freeze",
        "send_and_abort",
        {"prompt": prompt(20), "after_s": 0.2, "asked": {"freeze": "never"}, "tokens": 50},
    ),
    ("fast", "meet_async", {"verb": "nothing"}),
    ("reset for good", "reset_async", {}),
    ("bob", "send", {"prompts": [prompt(2)]}),
    *(
        (f"frozen {seed}", "send", {"prompts": [prompt(seed)], "asked": {"freeze": f"s{seed}"}})
        for seed in range(3, 11)
    ),
    ("reset for many", "reset_async", {}),
    ("slow for many", "meet_async", {"verb": "slow loads", "argument": 0.2}),
    ("many", "send", {"prompts": [prompt(seed) for seed in range(3, 11)], "tokens": 50}),
    ("many again", "send", {"prompts": [prompt(seed) for seed in range(3, 11)], "tokens": 50}),
    ("slept 1", "sleep_async", {"level": 1}),
    ("slept 2", "sleep_async", {"level": 2}),
    ("after sleep", "send", {"prompts": [prompt(2)]}),
    ("stopped", "async_stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("sessions-served", STEPS, limit_s=LIMIT_S)
