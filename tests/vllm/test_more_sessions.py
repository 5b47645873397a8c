"""Sessions of engines beyond those of every run: swaps of weights, other engines, full folders."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from session_checks import LLAMA, Steps, again, one, prompt, same

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.matrix]
LIMIT_S = 600
SMALL = 550_000
ROPE = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}
OTHERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another dtype": ({"dtype": "float32"}, "engine", "dtype is bfloat16"),
    "another rope": ({"hf_overrides": ROPE}, "engine", "rope"),
}
ALICE = {"prompts": [prompt(1)]}


SWAPS: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("apart", "multiprocessing", {"on": True}),
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
    *again("packed hit"),
    ("packed reloaded", "reload", {"path": "other"}),
    *again("packed others"),
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
    *again("small used"),
    ("small three", "freeze_prompt", {"prompt": prompt(3), "path": "small/three.thaw"}),
    ("small settled", "settle", {}),
    ("small shown", "show", {"folder": "small"}),
    *again("small gone", 2),
    ("small stopped", "stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("more-sessions", SWAPS, limit_s=LIMIT_S)


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


def one_of_two(folder: Path) -> Steps:
    """Freeze to a name while another engine does, and be served by what is there in the end."""
    sessions, meeting = str(folder / "sessions"), folder / "met"
    frozen = {"prompt": prompt(1), "path": f"{sessions}/alice.thaw"}
    return [
        ("llama", "save", {"name": "llama"}),
        ("apart", "multiprocessing", {"on": True}),
        ("started", "serve_sessions", {**LLAMA, "folder": sessions}),
        ("hit", "request_in_turn", {"prompts": [prompt(1)] * 2}),
        ("there", "wait_for_other", {"path": f"{meeting} first"}),
        ("frozen", "freeze_for", {"seconds": 4, **frozen}),
        ("done", "wait_for_other", {"path": f"{meeting} then"}),
        ("listed", "listed", {"folder": sessions}),
        *again("served"),
        ("stopped", "stop", {}),
    ]


def test_two_engines_that_freeze_to_one_name_leave_one_whole_session(
    run_engines: Callable[..., Any], tmp_path: Path
) -> None:
    def run(name: str) -> Any:
        return run_engines(name, one_of_two(tmp_path), limit_s=LIMIT_S)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, ("one of two", "the other")))
    for each in both:
        assert each.value("frozen") > 5
        assert each.value("listed") == ["alice.thaw"]
        _, hit = each.value("hit")
        assert one(each, "served")["cached"] == hit["cached"] == 192
        assert same(one(each, "served"), hit)
