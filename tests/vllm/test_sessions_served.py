"""Sessions of a server over HTTP, and of an AsyncLLM whose requests are aborted and preempted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from session_checks import LLAMA, prompt

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 400
FEW = {"num_gpu_blocks_override": 24}
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
ALICE, ZOE = {"prompt": prompt(1)}, {"prompt": prompt(30)}
SLEEPS = [(1, "abort"), (2, "abort"), (1, "keep"), (1, "wait")]
Steps = list[tuple[str, str, dict[str, Any]]]
SERVING: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("before", "over_http", {"engine": SERVED, "connector": CONNECTOR, "calls": BEFORE}),
    ("after", "over_http", {"engine": SERVED, "connector": CONNECTOR, "calls": AFTER}),
]
ASYNC: Steps = [
    ("llama", "save", {"name": "llama"}),
    (
        "started",
        "serve_sessions_async",
        {**LLAMA, "num_gpu_blocks_override": 24},
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
        {"prompt": prompt(20), "after_s": 0.05, "asked": {"freeze": "never"}, "tokens": 50},
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
    ("slow again", "meet_async", {"verb": "slow freezes", "argument": 1.0}),
    *(
        (
            f"slept {level} {mode}, freezing",
            "sleep_async",
            {"level": level, "mode": mode, "before_s": 0.7, "asked": {"freeze": "z"}, **ZOE},
        )
        for level, mode in SLEEPS
    ),
    ("zoe", "send", {"prompts": [prompt(30)]}),
    ("slow loads", "meet_async", {"verb": "slow loads", "argument": 1.0}),
    *(
        step
        for level, mode in SLEEPS
        for step in (
            (f"reset {level} {mode}", "reset_async", {}),
            (
                f"slept {level} {mode}, loading",
                "sleep_async",
                {"level": level, "mode": mode, "before_s": 0.4, "prompt": prompt(2)},
            ),
        )
    ),
    ("fast again", "meet_async", {"verb": "nothing"}),
    ("after sleep", "send", {"prompts": [prompt(2)]}),
    ("stopped", "async_stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("sessions-served", SERVING, limit_s=LIMIT_S)


@pytest.fixture(scope="session")
def awaited(run_engines: Callable[..., Any]) -> Any:
    return run_engines("sessions-awaited", ASYNC, limit_s=LIMIT_S)


def metric(answers: Any, label: str, name: str) -> float:
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in answers.value(label)["metrics"]
        if line.startswith(f"vllm:thaw_session_{name}_total")
    ]
    return sum(found)


def test_a_request_freezes_its_session_when_it_ends(answers: Any) -> None:
    cold, frozen, *_ = answers.value("before")["answers"]
    assert (cold["cached"], frozen["cached"]) == (0, 192)
    assert frozen["tokens"] == cold["tokens"]
    said = frozen["said"]
    assert (said["session"], said["tokens"]) == ("alice.thaw", 192)
    assert [each.name for each in (answers.folder / "served").iterdir()] == ["alice.thaw"]


def test_it_is_a_hit_after_a_restart(answers: Any) -> None:
    loaded, skipped, _ = answers.value("after")["answers"]
    assert loaded["cached"] == 192
    assert loaded["tokens"] == answers.value("before")["answers"][0]["tokens"]
    assert metric(answers, "after", "loads") == 1
    assert metric(answers, "after", "tokens") == 192
    assert skipped["status"] == 200


def test_metrics_have_the_counters(answers: Any) -> None:
    assert metric(answers, "before", "freezes") == 1
    assert metric(answers, "before", "freeze_bytes") == 192 * 1024
    assert metric(answers, "before", "freeze_failures") > len(NAMES)


def test_names_that_lead_elsewhere_are_refused_and_the_request_served(answers: Any) -> None:
    found = answers.value("before")["answers"]
    for name, each in zip(NAMES, found[2:], strict=False):
        assert each["status"] == 200, name
        assert each["tokens"] == found[0]["tokens"]
        assert each["said"]["error"], name
        assert "session" not in each["said"]
    assert not (answers.folder / "x.thaw").exists()
    assert not (answers.folder / "a").exists()


def test_what_is_asked_in_another_form_ends_no_engine(answers: Any) -> None:
    found = answers.value("before")["answers"][2 + len(NAMES) :]
    surrogate, nul, *odd, last = found
    assert surrogate["status"] >= 400  # no text: vLLM's own refusal
    assert "control character" in nul["said"]["missed"]
    for each in odd:
        assert each["status"] == 200
        assert each["said"].get("error") or each["said"]["missed"]
    assert last["tokens"] == answers.value("before")["answers"][0]["tokens"]
    assert answers.value("before")["lives"]


def tokens(found: Any) -> list[Any]:
    return [each["tokens"] for each in found]


@pytest.mark.matrix
def test_an_engine_that_is_awaited_freezes_and_restores(awaited: Any) -> None:
    assert awaited.value("frozen")["tokens"] == 192
    assert awaited.value("restored")["nbytes"] == 192 * 1024
    (hit,) = awaited.value("hit")
    assert hit["cached"] == 192
    assert [hit["tokens"]] == tokens(awaited.value("cold"))


@pytest.mark.matrix
def test_a_request_that_is_aborted_while_it_loads_costs_others_nothing(awaited: Any) -> None:
    found = awaited.value("aborted load")
    assert [each["cached"] for each in found] == [192, 192]
    assert tokens(found) == tokens(awaited.value("cold")) * 2


@pytest.mark.matrix
def test_blocks_are_held_while_they_are_frozen(awaited: Any) -> None:
    """Others need all of them meanwhile, and what was frozen is right all the same."""
    (bob,) = awaited.value("bob")
    assert bob["cached"] == 192
    assert [bob["tokens"]] == tokens(awaited.value("left alone"))
    assert len(awaited.value("pressed")) == 8


@pytest.mark.matrix
def test_an_aborted_request_is_not_frozen(awaited: Any) -> None:
    assert awaited.value("aborted freeze") == []
    assert not (awaited.folder / "sessions" / "never.thaw").exists()


@pytest.mark.matrix
def test_with_few_blocks_requests_wait_and_are_preempted_and_right(awaited: Any) -> None:
    alone = [tokens(awaited.value(f"frozen {seed}"))[0] for seed in range(3, 11)]
    for label in ("many", "many again"):
        assert [each[:8] for each in tokens(awaited.value(label))] == alone


@pytest.mark.matrix
@pytest.mark.parametrize("what", ["freezing", "loading"])
@pytest.mark.parametrize(("level", "mode"), SLEEPS)
def test_an_engine_sleeps_and_wakes_with_transfers_under_way(
    awaited: Any, level: int, mode: str, what: str
) -> None:
    """The worker of a CPU keeps its memory, and says so; what is tested is that all go on."""
    slept, woke, sent = awaited.value(f"slept {level} {mode}, {what}")
    assert (woke, sent) == ("", "")
    if (mode, what) == ("keep", "loading"):
        # What is kept of a request that loads, vLLM cannot keep while it sleeps, and says so.
        assert "requests waiting for remote KV transfer" in slept
    else:
        assert slept == ""


@pytest.mark.matrix
def test_after_sleeps_it_serves_what_is_right(awaited: Any) -> None:
    assert tokens(awaited.value("after sleep")) == tokens(awaited.value("left alone"))
    awaited.value("stopped")
