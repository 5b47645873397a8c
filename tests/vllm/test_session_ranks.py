"""Sessions of engines with two ranks: a file of each, in a folder that appears when both are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from session_checks import LLAMA, Steps, again, one, prompt, same, skip_without

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 600
TWO = {**LLAMA, "tensor_parallel_size": 2}
ALICE = {"prompts": [prompt(1)]}
STEPS: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("apart", "multiprocessing", {"on": True}),
    ("two", "serve_sessions", {**TWO, "folder": "two"}),
    ("two cold", "request", ALICE),
    ("two hit", "request", ALICE),
    ("two frozen", "freeze_prompt", {"prompt": prompt(1), "path": "two/alice.thaw"}),
    ("two shown", "show", {"folder": "two"}),
    ("two bob", "request", {"prompts": [prompt(2)], "asked": {"freeze": "bob"}}),
    ("two slow", "meet", {"verb": "slow freezes", "argument": 0.5}),
    ("two slowly", "freeze_prompt", {"prompt": prompt(3), "path": "two/carol.thaw"}),
    ("two fast", "meet", {"verb": "nothing"}),
    ("two small", "mount_small", {"path": "two", "nbytes": 65536}),
    ("two failed", "freeze_prompt", {"prompt": prompt(4), "path": "two/dave.thaw"}),
    ("two settled", "settle", {}),
    ("two again there", "unmount", {"path": "two"}),
    ("two listed", "listed", {"folder": "two"}),
    ("two killing", "meet", {"verb": "killed"}),
    ("two killed", "freeze_prompt", {"prompt": prompt(5), "path": "two/eve.thaw"}),
    ("two stopped", "stop", {}),
    ("two left", "listed", {"folder": "two"}),
    ("two again", "serve_sessions", {**TWO, "folder": "two"}),
    ("two loaded", "request", ALICE),
    ("two eve", "freeze_prompt", {"prompt": prompt(5), "path": "two/eve.thaw"}),
    ("two left after", "listed", {"folder": "two"}),
    ("two damage", "damage", {"path": "two/bob.thaw"}),
    *again("two damaged", 2),
    ("two again stopped", "stop", {}),
    ("one", "serve_sessions", {**LLAMA, "folder": "two"}),
    ("another rank set", "request", ALICE),
    ("one stopped", "stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("session-ranks", STEPS, limit_s=LIMIT_S)


def test_two_ranks_freeze_a_folder_and_load_it_in_another_process(answers: Any) -> None:
    assert answers.value("two frozen")["ranks"] == 2
    assert answers.value("two shown") == [["alice", 192, None]]
    assert one(answers, "two loaded")["cached"] == 192
    assert same(one(answers, "two loaded"), one(answers, "two hit"))


def test_a_freeze_of_two_ranks_has_its_name_when_it_returns(answers: Any) -> None:
    assert answers.value("two slowly")["tokens"] == 192
    assert answers.value("two listed") == ["alice.thaw", "bob.thaw", "carol.thaw"]


def test_a_full_disk_leaves_nothing_of_two_ranks(answers: Any) -> None:
    skip_without(answers, "two small")
    assert "No space left" in answers["two failed"].error
    assert answers.value("two again there") == []


def test_what_two_killed_ranks_left_goes_with_the_next_freeze(answers: Any) -> None:
    assert answers["two killed"].error
    left = answers.value("two left")
    assert [each for each in left if not each.startswith(".")] == [
        *("alice.thaw", "bob.thaw", "carol.thaw"),
    ]
    assert answers.value("two left after") == ["alice.thaw", "bob.thaw", "carol.thaw", "eve.thaw"]


def test_damage_in_one_rank_costs_time_alone(answers: Any) -> None:
    found = one(answers, "two damaged")
    assert found["cached"] == 0
    assert "chunk-checksum" in found["said"]["missed"]
    assert same(found, one(answers, "two bob"))


def test_an_engine_of_one_rank_refuses_them_with_both_numbers(answers: Any) -> None:
    found = one(answers, "another rank set")
    assert found["cached"] == 0
    assert "it has 2 ranks, this engine has 1" in found["said"]["missed"]
