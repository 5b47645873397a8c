"""Sessions of real engines: frozen in one process, hits in another, and faults on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from session_checks import LLAMA, Steps, again, one, prompt, same, skip_without

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 400
BLOCK = 32
ALICE, MORE = prompt(1), [*prompt(1), 5, 6, 7]
MADE = range(10, 14)


def session(name: str) -> str:
    return f"sessions/{name}.thaw"


FREEZING: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("one bit", "one_bit", {"model": "llama", "path": "other"}),
    ("apart", "multiprocessing", {"on": True}),
    ("first", "serve_sessions", LLAMA),
    ("cold", "request", {"prompts": [ALICE]}),
    ("hit", "request_in_turn", {"prompts": [ALICE, MORE]}),
    ("frozen", "freeze_prompt", {"prompt": ALICE, "path": session("alice")}),
    ("bob", "request", {"prompts": [prompt(2)], "asked": {"freeze": "bob"}}),
    ("answer", "freeze_answer", {"prompt": prompt(3, 100), "path": session("carol")}),
    ("salted", "request", {"prompts": [prompt(6)], "salt": "s", "asked": {"freeze": "salted"}}),
    *(
        (f"made {seed}", "request", {"prompts": [prompt(seed)], "asked": {"freeze": f"s{seed}"}})
        for seed in MADE
    ),
    ("slow", "meet", {"verb": "slow freezes", "argument": 1.0}),
    ("slowly", "freeze_prompt", {"prompt": prompt(20), "path": session("slow")}),
    ("fast", "meet", {"verb": "nothing"}),
    ("settled", "settle", {}),
    ("shown", "show", {}),
    ("counted", "counted", {}),
    ("first stopped", "stop", {}),
]
RESTORING: Steps = [
    ("second", "serve_sessions", LLAMA),
    ("loaded", "request_in_turn", {"prompts": [MORE]}),
    ("loaded again", "request", {"prompts": [prompt(2)]}),
    ("restored", "restore_file", {"path": session("carol")}),
    ("unsalted", "request", {"prompts": [prompt(6)]}),
    ("salted too", "request", {"prompts": [prompt(6)], "salt": "s"}),
    ("other salt", "request", {"prompts": [prompt(6)], "salt": "t"}),
    ("counted loads", "counted", {}),
    *again("eight: first"),
    ("eight: reset", "reset", {}),
    ("eight: slow", "meet", {"verb": "slow loads", "argument": 0.3}),
    ("eight", "request", {"prompts": [[*ALICE, index] for index in range(8)]}),
    ("eight: counted", "counted", {}),
    ("eight: done", "meet", {"verb": "nothing"}),
    ("with logprobs", "request", {"prompts": [prompt(12)], "prompt_logprobs": 1}),
    ("damage", "damage", {"path": session("s10")}),
    *again("damaged", seed=10, asked={"freeze": "s10"}),
    ("mended: settled", "settle", {}),
    *again("mended", seed=10),
    ("cut", "cut", {"path": session("s11")}),
    *again("truncated", seed=11),
    ("going", "meet", {"verb": "gone", "argument": session("s12")}),
    *again("gone", seed=12),
    ("oddly", "meet", {"verb": "odd"}),
    *again("odd", seed=13),
    ("small disk", "mount_small", {"path": "sessions", "nbytes": 65536}),
    ("full", "request", {"prompts": [prompt(30)], "asked": {"freeze": "full"}}),
    ("full by hand", "freeze_prompt", {"prompt": prompt(30), "path": session("full")}),
    ("full: settled", "settle", {}),
    ("disk again", "unmount", {"path": "sessions"}),
    ("well again", "meet", {"verb": "nothing"}),
    ("counted faults", "counted", {}),
    ("reloaded", "reload", {"path": "other"}),
    ("old in memory", "freeze_prompt", {"prompt": prompt(13), "path": session("old")}),
    *again("other weights"),
    ("other weights by hand", "restore_file", {"path": session("alice")}),
    ("other weights alone", "request", {"prompts": [prompt(1)], "asked": {"skip": True}}),
    ("reloaded again", "reload", {"path": "llama"}),
    *again("its weights again"),
    ("counted swaps", "counted", {}),
    ("second stopped", "stop", {}),
    ("left", "listed", {}),
]
CHANGED: Steps = [
    ("third", "serve_sessions", {**LLAMA, "model": "other"}),
    ("one bit alone", "request", {"prompts": [ALICE], "asked": {"skip": True}}),
    *again("one bit refused"),
    ("third stopped", "stop", {}),
    ("fourth", "serve_sessions", {**LLAMA, "block_size": 64}),
    ("other blocks", "request", {"prompts": [ALICE]}),
    ("other blocks counted", "counted", {}),
    ("fourth stopped", "stop", {}),
]

KILLED: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("apart", "multiprocessing", {"on": True}),
    ("first", "serve_sessions", LLAMA),
    ("killing", "meet", {"verb": "killed"}),
    ("killed", "freeze_prompt", {"prompt": prompt(40), "path": session("killed")}),
    ("first stopped", "stop", {}),
    ("left", "listed", {}),
    ("shown", "show", {}),
    ("second", "serve_sessions", LLAMA),
    ("frozen", "freeze_prompt", {"prompt": prompt(40), "path": session("killed")}),
    ("left after", "listed", {}),
    ("second stopped", "stop", {}),
]
"""Apart, so that nothing waits for it."""


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("sessions", [*FREEZING, *RESTORING, *CHANGED], limit_s=LIMIT_S)


def counted(answers: Any, after: str, before: str, name: str) -> float:
    found = answers.value(after).get(name, 0) - answers.value(before).get(name, 0)
    return float(found)


def test_another_process_serves_what_was_frozen_to_the_last_bit(answers: Any) -> None:
    assert answers.value("frozen")["tokens"] == 192
    hit, more = answers.value("hit")
    assert (hit["cached"], more["cached"]) == (192, 192)
    loaded = one(answers, "loaded")
    assert loaded["cached"] == 192
    assert same(loaded, more)
    assert one(answers, "loaded again")["cached"] == 192
    assert one(answers, "loaded again")["tokens"] == one(answers, "bob")["tokens"]


def test_a_prompt_is_frozen_with_its_answer_and_restored_ahead_of_requests(answers: Any) -> None:
    assert answers.value("answer")["report"]["tokens"] == 128
    assert answers.value("restored")["tokens"] == 128
    assert answers.value("restored")["nbytes"] == answers.value("answer")["report"]["nbytes"]


def test_a_slow_freeze_is_waited_for(answers: Any) -> None:
    assert answers.value("slowly")["elapsed_s"] > 1
    assert ["slow", 192, None] in answers.value("shown")


def test_a_salt_is_part_of_what_a_session_is_bound_to(answers: Any) -> None:
    for label in ("unsalted", "other salt"):
        assert one(answers, label)["cached"] == 0
        # It would learn that someone has asked the same.
        assert "missed" not in (one(answers, label)["said"] or {})
    assert one(answers, "salted too")["cached"] == 192


def test_loads_are_counted(answers: Any) -> None:
    found = answers.value("counted loads")
    assert (found["loads"], found["tokens"]) == (4, 3 * 192 + 128)
    assert found["misses inputs"] == 2
    assert found["load_bytes"] == found["tokens"] * 1024


def test_eight_requests_at_once_read_it_once(answers: Any) -> None:
    found = answers.value("eight")
    assert [each["cached"] for each in found] == [192] * 8
    # One load of the first, alone, and one of all eight.
    assert counted(answers, "eight: counted", "counted loads", "loads") == 2


def test_logprobs_of_a_prompt_are_computed(answers: Any) -> None:
    assert one(answers, "with logprobs")["cached"] == 0
    assert one(answers, "with logprobs")["tokens"] == one(answers, "made 12")["tokens"]


@pytest.mark.parametrize(
    ("label", "seed", "said"),
    [
        ("damaged", 10, "[chunk-checksum, PAY-1]"),
        ("truncated", 11, "[truncated-file, SB-10]"),
        ("gone", 12, "No such file or directory"),
        ("odd", 13, "RuntimeError: nobody thought of this"),
    ],
)
def test_a_load_that_fails_costs_time_and_no_token(
    answers: Any, label: str, seed: int, said: str
) -> None:
    found, expected = one(answers, label), one(answers, f"made {seed}")
    assert found["cached"] == 0
    assert same(found, expected)
    assert said in found["said"]["missed"]
    assert f"s{seed}.thaw" in found["said"]["missed"]
    assert (
        f"the load of session {answers.folder}/sessions/s{seed}.thaw failed" in answers[label].log
    )


def test_loads_that_fail_are_counted_by_reason(answers: Any) -> None:
    found = answers.value("counted faults")
    assert found["load_failures"] == 4
    assert found["misses gone"] == 1
    assert found["misses failed"] == 1
    assert found["misses damaged"] >= 2


def test_a_request_whose_session_was_damaged_can_freeze_it_anew(answers: Any) -> None:
    assert one(answers, "mended")["cached"] == 192
    assert one(answers, "mended")["tokens"] == one(answers, "made 10")["tokens"]


def test_a_full_disk_fails_the_freeze_and_not_the_request(answers: Any) -> None:
    skip_without(answers, "small disk")
    assert len(one(answers, "full")["tokens"]) == 8
    assert "No space left" in answers["full by hand"].error
    assert answers.value("disk again") == []


def test_weights_that_were_reloaded_are_others(answers: Any) -> None:
    assert "the cache may hold blocks of the old ones" in answers["old in memory"].error
    found = one(answers, "other weights")
    assert found["cached"] == 0
    assert "it is of weights" in found["said"]["missed"]
    assert counted(answers, "counted swaps", "counted faults", "misses weights") >= 1
    assert "it is of weights" in answers["other weights by hand"].error
    # They were put back: what was frozen of them is theirs again.
    assert one(answers, "its weights again")["cached"] == 192
    assert same(one(answers, "its weights again"), answers.value("hit")[0])


def test_an_engine_with_one_other_bit_uses_none_of_them(answers: Any) -> None:
    found = one(answers, "one bit refused")
    assert found["cached"] == 0
    assert "it is of weights" in found["said"]["missed"]
    assert same(found, one(answers, "one bit alone"))


def test_an_engine_that_is_killed_in_a_freeze_leaves_what_the_next_one_removes(
    run_engines: Callable[..., Any],
) -> None:
    answers = run_engines("killed", KILLED, limit_s=LIMIT_S)
    assert answers["killed"].error
    (left,) = [each for each in answers.value("left") if each.startswith(".")]
    assert left.startswith(".killed.thaw.")
    assert "killed" not in [name for name, *_ in answers.value("shown")]
    assert answers.value("frozen")["tokens"] == 192
    assert answers.value("left after") == ["killed.thaw"]


def test_blocks_of_another_size_are_refused_with_both(answers: Any) -> None:
    found = one(answers, "other blocks")
    assert found["cached"] == 0
    assert "its blocks are of 32 tokens, this engine's of 64" in found["said"]["missed"]
    assert counted(answers, "other blocks counted", "counted swaps", "misses block-size") == 1
