"""Sessions of requests with a LoRA adapter: only the same content serves, whatever its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from session_cases import connector, prompt

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.matrix]
LIMIT_S = 600
ALICE, OTHER = "one/alice", "two/alice"
PROMPT = prompt(1, 225)
WHOLE = 224
ASKED = {"prompts": [PROMPT]}
ALL = {"connector": True}
Steps = list[tuple[str, str, dict[str, Any]]]


def engine(folder: Path | str = "", **more: Any) -> dict[str, Any]:
    return {
        "model": str(Path(folder, "grouped")),
        "kv_transfer_config": connector(str(Path(folder, "sessions"))),
        "max_model_len": 512,
        "enable_lora": True,
        "max_lora_rank": 8,
        **more,
    }


FREEZING: Steps = [
    ("here", "multiprocessing", {"on": False}),
    ("saved", "save_for_sessions", {"name": "grouped"}),
    ("one", "save_adapter", {"model": "grouped", "folder": ALICE, "seed": 1}),
    ("two", "save_adapter", {"model": "grouped", "folder": OTHER, "seed": 2}),
    ("started", "start", engine()),
    ("other", "ask", ASKED | {"adapter": OTHER}),
    ("forgotten", "forget", ALL),
    ("plain", "ask", ASKED),
    ("cold", "ask", ASKED | {"adapter": ALICE}),
    ("hit", "ask", ASKED | {"adapter": ALICE}),
    (
        "frozen",
        "freeze_session",
        {"prompt": PROMPT[:WHOLE], "path": "sessions/alice.thaw", "adapter": ALICE},
    ),
    (
        "mixed up",
        "freeze_session",
        {"prompt": PROMPT[:WHOLE], "path": "sessions/other.thaw", "adapter": OTHER},
    ),
    ("stopped", "stop", {}),
]


def serving(folder: Path) -> Steps:
    alice, other = (str(folder / each) for each in (ALICE, OTHER))
    path = {"path": str(folder / "sessions" / "alice.thaw")}
    return [
        ("here", "multiprocessing", {"on": False}),
        ("started", "start", engine(folder)),
        ("plain", "ask", ASKED),
        ("other", "ask", ASKED | {"adapter": other}),
        ("forgotten", "forget", ALL),
        ("served", "ask", ASKED | {"adapter": alice}),
        ("forgotten again", "forget", ALL),
        ("restored", "restore_session", path | {"adapter": alice}),
        ("after it", "ask", ASKED | {"adapter": alice}),
        ("forgotten at last", "forget", ALL),
        ("restored plainly", "restore_session", path),
        ("stopped", "stop", {}),
    ]


@pytest.fixture(scope="session")
def frozen(run_engines: Callable[..., Any]) -> Any:
    return run_engines("freezing-adapters", FREEZING, limit_s=LIMIT_S)


@pytest.fixture(scope="session")
def served(run_engines: Callable[..., Any], frozen: Any) -> Any:
    return run_engines("serving-adapters", serving(frozen.folder), limit_s=LIMIT_S)


def bits(answers: Any, label: str) -> tuple[Any, ...]:
    (found,) = answers.value(label)
    return found["cached"], found["tokens"], found["logprobs"]


@pytest.mark.parametrize("way", ["served", "after it"])
def test_a_session_serves_requests_with_its_adapter(frozen: Any, served: Any, way: str) -> None:
    assert bits(frozen, "hit")[0] == WHOLE
    assert bits(served, way) == bits(frozen, "hit")


@pytest.mark.parametrize("which", ["plain", "other"])
def test_without_the_adapter_s_content_it_does_not(frozen: Any, served: Any, which: str) -> None:
    assert bits(frozen, which)[1:] != bits(frozen, "cold")[1:]
    assert bits(served, which) == bits(frozen, which)
    assert bits(served, which)[0] == 0
    (found,) = served.value(which)
    assert "the adapter of the request differs" in found["said"]["missed"]


def test_what_may_be_of_another_adapter_of_its_name_is_not_frozen(frozen: Any) -> None:
    assert frozen.value("hit")
    assert "adapters of this name that differ were used" in frozen["mixed up"].error
    assert not (frozen.folder / "sessions" / "other.thaw").exists()


def test_restoring_without_it_says_what_differs(served: Any) -> None:
    assert "the adapter of the request differs" in served["restored plainly"].error
