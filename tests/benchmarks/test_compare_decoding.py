"""What differs between two processes, in whatever bit, does not pass."""

from __future__ import annotations

import copy
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
DECODED = [[[1, 2], [[[1, -0.5], [3, -2.0]], [[2, -0.25], [4, -3.0]]]]]
DEFAULT = {"decoded": DECODED, "snapshot": {"nbytes": 8, "tensors": 2, "ranks": 1}}
DEFAULT["kernels"] = []
THAW = {"decoded": DECODED, "decoded_again": [DECODED], "differences": []}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def outcome(default: dict[str, Any], thaw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    import compare_decoding

    case = compare_decoding.Case("llama", "/llama", "processed", {"dtype": "float32"})
    found = compare_decoding.compared(case, default, thaw)
    return found, compare_decoding.outcome(found)


def test_what_is_equal_passes() -> None:
    found, said = outcome(DEFAULT, THAW)
    assert found["passed"]
    assert (found["decoded_tokens"], found["distinct_tokens"], found["hot_restores"]) == (2, 2, 1)
    assert said == "llama, processed, float32, TP=1: 2 tokens and their logprobs are equal"


def changed(place: str, what: str) -> dict[str, Any]:
    thaw = copy.deepcopy(THAW)
    tokens, logprobs = (thaw["decoded"] if place == "decoded" else thaw["decoded_again"][0])[0]
    if what == "tokens":
        tokens[1] = 3
    else:
        logprobs[1][1][1] = math.nextafter(logprobs[1][1][1], 0)
    return thaw


@pytest.mark.parametrize("place", ["decoded", "decoded_again"])
@pytest.mark.parametrize("what", ["tokens", "logprobs"])
def test_another_token_or_another_bit_of_a_logprob_does_not_pass(place: str, what: str) -> None:
    found, said = outcome(DEFAULT, changed(place, what))
    assert not found["passed"]
    assert not found["logprobs_equal"]
    assert found["tokens_equal"] == (what == "logprobs")
    assert said == f"llama, processed, float32, TP=1: DIFFERENT {what} "


def test_a_tensor_that_differs_does_not_pass() -> None:
    found, said = outcome(DEFAULT, THAW | {"differences": ["rank 0: 'a' differs"]})
    assert not found["passed"]
    assert said.endswith("DIFFERENT tensors rank 0: 'a' differs")


@pytest.mark.parametrize(
    ("default", "thaw", "said"),
    [
        ({"error": "OSError: no"}, THAW, "FAILED: default: OSError: no"),
        (DEFAULT, {"error": "OSError: no"}, "FAILED: thaw: OSError: no"),
    ],
)
def test_an_error_does_not_pass(default: dict[str, Any], thaw: dict[str, Any], said: str) -> None:
    found, line = outcome(default, thaw)
    assert not found["passed"]
    assert line.endswith(said)


def test_answers_of_an_earlier_run_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import compare_decoding

    for role, answer in (("default", DEFAULT), ("thaw", THAW)):
        (tmp_path / f"{role}.jsonl").write_text(json.dumps(answer | {"case": 0}) + "\n")
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: seen.append(env))
    cases = [compare_decoding.Case("llama", "/llama")]
    (row,) = compare_decoding.compare(cases, tmp_path, environment={"NAME": "value"})
    assert "the process ended before this case" in row["error"]
    assert [each["NAME"] for each in seen] == ["value", "value"]
