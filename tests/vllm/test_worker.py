"""What a worker answers; vLLM's part in it is made up here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from thaw.vllm.worker import thaw

PARALLEL = SimpleNamespace(
    tensor_parallel_size=4,
    pipeline_parallel_size=1,
    data_parallel_size=1,
    enable_expert_parallel=False,
)
CONFIG = SimpleNamespace(lora_config=None, kv_transfer_config=None, parallel_config=PARALLEL)
WORKER = SimpleNamespace(rank=3, vllm_config=CONFIG)
CALLS: list[Callable[[], dict[str, Any]]] = [
    lambda: thaw(WORKER, "prepare", "a.thaw", "auto"),
    lambda: thaw(WORKER, "freeze", "a.thaw", "0" * 32, "auto"),
    lambda: thaw(WORKER, "compare", "a.thaw"),
]


def allocations(monkeypatch: pytest.MonkeyPatch, *found: SimpleNamespace) -> None:
    """Let vLLM's allocator of sleep mode have made these."""
    made = ModuleType("vllm.device_allocator.cumem")
    allocator = SimpleNamespace(pointer_to_data=dict(enumerate(found)))
    made.CuMemAllocator = SimpleNamespace(instance=allocator)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)


@pytest.mark.parametrize("call", CALLS)
def test_weights_of_an_engine_that_sleeps_are_left_alone(
    call: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocations(monkeypatch, SimpleNamespace(tag="weights", is_asleep=True))
    answer = call()
    assert (answer["rank"], answer["error"]) == (3, "ThawError")
    assert answer["message"].startswith("the engine sleeps, and its weights have no memory")


def test_an_engine_may_sleep_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    awake = SimpleNamespace(tag="weights", is_asleep=False)
    allocations(monkeypatch, awake, SimpleNamespace(tag="kv_cache", is_asleep=True))
    # It goes on to the file, which is not there.
    assert thaw(WORKER, "prepare", "a.thaw", "auto")["error"] == "FileNotFoundError"
