"""Sessions of engines beyond those of every run: two ranks, swaps of weights, other engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.matrix]
LIMIT_S = 600
FAULTS = {"worker_extension_cls": "session_faults.Faults"}
LLAMA = {"model": "llama", **FAULTS}
TWO = {**LLAMA, "tensor_parallel_size": 2}
SMALL = 550_000
ROPE = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}
OTHERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another dtype": ({"dtype": "float32"}, "engine", "dtype is bfloat16"),
    "another rope": ({"hf_overrides": ROPE}, "engine", "rope"),
    "another rank set": ({}, "ranks", "it has 2 ranks, this engine has 1"),
}
Steps = list[tuple[str, str, dict[str, Any]]]


def prompt(seed: int, tokens: int = 200) -> list[int]:
    """Make a prompt up; those of other seeds have no block in common."""
    return [(seed * 37 + index * 7) % 1000 + 1 for index in range(tokens)]


ALICE = {"prompts": [prompt(1)]}


def _again(label: str, seed: int = 1, **options: Any) -> Steps:
    return [
        (f"{label}: reset", "reset", {}),
        (label, "request", {"prompts": [prompt(seed)], **options}),
    ]


RANKS: Steps = [
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
    ("two full", "meet", {"verb": "full", "argument": "two"}),
    ("two failed", "freeze_prompt", {"prompt": prompt(4), "path": "two/dave.thaw"}),
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
    *_again("two damaged", 2),
    ("two again stopped", "stop", {}),
    ("one", "serve_sessions", {**LLAMA, "folder": "two"}),
    ("another rank set", "request", ALICE),
    ("one stopped", "stop", {}),
]
SWAPS: Steps = [
    ("one bit", "one_bit", {"model": "llama", "path": "other"}),
    ("other", "serve_sessions", {**LLAMA, "model": "other"}),
    ("other frozen", "freeze_live", {"path": "other.thaw"}),
    ("other asked", "request", ALICE),
    ("other stopped", "stop", {}),
    ("plain", "serve_sessions", LLAMA),
    ("plain frozen", "freeze_live", {"path": "llama.thaw"}),
    ("plain asked", "request", ALICE),
    ("alice", "freeze_prompt", {"prompt": prompt(1), "path": "sessions/alice.thaw"}),
    ("slow", "meet", {"verb": "slow freezes", "argument": 0.5}),
    ("late", "request", {"prompts": [prompt(2)], "asked": {"freeze": "late"}}),
    ("swapped", "restore_live", {"path": "other.thaw"}),
    ("fast", "meet", {"verb": "nothing"}),
    ("swapped asked", "request", ALICE),
    ("swapped late", "request", {"prompts": [prompt(2)]}),
    ("swapped by hand", "restore_file", {"path": "sessions/alice.thaw"}),
    ("swapped back", "restore_live", {"path": "llama.thaw"}),
    ("back asked", "request", ALICE),
    ("back late", "request", {"prompts": [prompt(2)]}),
    ("plain stopped", "stop", {}),
    ("packs", "packs", {}),
    ("packed", "serve_sessions", {"model": "llama", "folder": "packed"}),
    ("packed asked", "request", ALICE),
    ("packed frozen", "freeze_prompt", {"prompt": prompt(1), "path": "packed/alice.thaw"}),
    *_again("packed hit"),
    ("packed reloaded", "reload", {"path": "other"}),
    *_again("packed others"),
    ("packed anew", "freeze_prompt", {"prompt": prompt(3), "path": "packed/anew.thaw"}),
    ("packed stopped", "stop", {}),
    ("dtype", "serve_sessions", {**LLAMA, **OTHERS["another dtype"][0]}),
    ("another dtype", "request", ALICE),
    ("dtype stopped", "stop", {}),
    ("rope", "serve_sessions", {**LLAMA, **OTHERS["another rope"][0]}),
    ("another rope", "request", ALICE),
    ("rope stopped", "stop", {}),
    # Room for two and a half.
    ("small", "serve_sessions", {**LLAMA, "folder": "small", "extra": {"max_bytes": SMALL}}),
    ("small one", "freeze_prompt", {"prompt": prompt(1), "path": "small/one.thaw"}),
    ("small two", "freeze_prompt", {"prompt": prompt(2), "path": "small/two.thaw"}),
    *_again("small used"),
    ("small three", "freeze_prompt", {"prompt": prompt(3), "path": "small/three.thaw"}),
    ("small settled", "settle", {}),
    ("small shown", "show", {"folder": "small"}),
    *_again("small gone", 2),
    ("small stopped", "stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("more-sessions", [*RANKS, *SWAPS], limit_s=LIMIT_S)


def one(answers: Any, label: str) -> Any:
    (found,) = answers.value(label)
    return found


def same(found: Any, expected: Any) -> bool:
    """Say whether two answers are the same to the last bit of their logprobs."""
    return bool(found["tokens"] == expected["tokens"] and found["logprobs"] == expected["logprobs"])


def test_two_ranks_freeze_a_folder_and_load_it_in_another_process(answers: Any) -> None:
    assert answers.value("two frozen")["ranks"] == 2
    assert answers.value("two shown") == [["alice", 192, None]]
    assert one(answers, "two loaded")["cached"] == 192
    assert same(one(answers, "two loaded"), one(answers, "two hit"))


def test_a_freeze_of_two_ranks_has_its_name_when_it_returns(answers: Any) -> None:
    assert answers.value("two slowly")["tokens"] == 192
    assert answers.value("two listed") == ["alice.thaw", "bob.thaw", "carol.thaw"]


def test_a_full_disk_leaves_nothing_of_two_ranks(answers: Any) -> None:
    assert "No space left" in answers["two failed"].error


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


@pytest.mark.parametrize("label", OTHERS)
def test_sessions_of_other_engines_are_refused_with_both_values(answers: Any, label: str) -> None:
    _, _, said = OTHERS[label]
    found = one(answers, label)
    assert found["cached"] == 0
    assert said in found["said"]["missed"]


def test_after_a_swap_nothing_of_the_old_weights_is_served(answers: Any) -> None:
    found = one(answers, "swapped asked")
    assert found["cached"] == 0
    assert "it is of weights" in found["said"]["missed"]
    assert same(found, one(answers, "other asked"))
    assert one(answers, "swapped late")["cached"] == 0
    assert "it is of weights" in answers["swapped by hand"].error


def test_what_was_being_frozen_when_weights_were_swapped_is_of_the_old_ones(answers: Any) -> None:
    assert same(one(answers, "back asked"), one(answers, "plain asked"))
    assert one(answers, "back asked")["cached"] == 192
    assert one(answers, "back late")["cached"] == 192
    assert same(one(answers, "back late"), one(answers, "late"))


def test_a_folder_that_is_full_loses_what_was_not_used_for_longest(answers: Any) -> None:
    assert (
        2 * answers.value("small one")["nbytes"] < SMALL < 3 * answers.value("small one")["nbytes"]
    )
    assert one(answers, "small used")["cached"] == 192
    assert [name for name, *_ in answers.value("small shown")] == ["one", "three"]
    assert one(answers, "small gone")["cached"] == 0


def test_weights_that_a_library_packed_and_that_were_reloaded_are_not_the_old_ones(
    answers: Any,
) -> None:
    assert one(answers, "packed hit")["cached"] == 192
    found = one(answers, "packed others")
    assert found["cached"] == 0
    assert answers["packed reloaded"].error or found["said"]["missed"]
