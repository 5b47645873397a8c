"""What workers are asked for when they load a model to be frozen; vLLM's part is made up here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import thaw
from thaw.vllm import offline


class AskedError(Exception):
    """Ends a freeze where workers would start."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what vLLM is asked for; the configuration that it makes of that has two replicas."""
    found: dict[str, Any] = {}

    def engine_args(**options: Any) -> Any:
        found.update(options)
        replicas = options.get("data_parallel_size", 1)
        config = SimpleNamespace(
            speculative_config=None, parallel_config=SimpleNamespace(data_parallel_size=replicas)
        )
        return SimpleNamespace(create_engine_config=lambda: config)

    for name, content in (
        ("vllm.engine.arg_utils", {"EngineArgs": engine_args}),
        ("vllm.plugins", {"load_general_plugins": lambda: None}),
    ):
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def start(*_: Any) -> None:
        raise AskedError

    monkeypatch.setattr(offline, "_freeze_by_workers", start)
    return found


@pytest.mark.parametrize(("options", "share"), [({}, 0.01), ({"gpu_memory_utilization": 0.5}, 0.5)])
def test_no_share_of_the_memory_is_asked_for_unless_one_is_given(
    options: dict[str, Any], share: float, asked: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(AskedError):
        offline.freeze("llama", tmp_path / "a.thaw", **options)
    assert 0 < asked["gpu_memory_utilization"] <= share
    assert asked["gpu_memory_utilization"] == options.get(
        "gpu_memory_utilization", asked["gpu_memory_utilization"]
    )


def test_replicas_are_not_frozen_by_workers(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(thaw.MismatchError, match="leave out data_parallel_size"):
        offline.freeze("llama", tmp_path / "a.thaw", data_parallel_size=2)


def test_workers_are_told_where_to_leave_word(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AskedError):
        offline.freeze("llama", tmp_path / "a.thaw")
    assert asked["model_loader_extra_config"]["errors_to"]
