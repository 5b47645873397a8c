"""The page about two GPUs says what is in the results, and what is wrong there."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def ranks_page() -> Any:
    return import_module("ranks_page")


@pytest.fixture
def raw(ranks_page: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / ranks_page.FILE).read_text())
    return found


def part(raw: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in raw["rows"] if row["part"] == name]


def made(ranks_page: Any, raw: dict[str, Any]) -> str:
    judged = map(asdict, import_module("engines_results").figures(raw["rows"]))
    page: str = ranks_page.make(raw | {"figures": list(judged)})
    return page


def test_the_committed_results_are_all_right(ranks_page: Any, raw: dict[str, Any]) -> None:
    assert all(row["passed"] for name in ("decoding", "faults") for row in part(raw, name))
    assert {(row["case"], row["kind"]) for row in part(raw, "decoding")} >= {
        (name, kind) for name in ("Llama-3.1-8B",) for kind in ("loaded", "processed")
    }
    page = made(ranks_page, raw)
    for wrong in ("**different**", "**differ**", "**failed**", "**nothing**", "hung"):
        assert wrong not in page


def test_other_logprobs_and_tensors_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    first, second, *_ = part(raw, "decoding")
    first |= {"logprobs_equal": False, "differences": ["a", "b"]}
    second |= {"case": "Llama", "error": "it broke", "passed": False, "snapshot": None}
    kind = second["kind"]
    page = made(ranks_page, raw)
    assert "| **no** | **2 differ** |" in page
    assert f"| Llama | {kind} |  |  | **failed**: it broke |  |" in page


def test_tensors_that_are_not_identical_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    checked = next(row for row in part(raw, "together") if "checked" in row["case"])
    checked["ranks"][1]["identical"] = False
    assert "**different**" in made(ranks_page, raw)


def test_rates_are_shares_of_what_both_buses_move_at_once(
    ranks_page: Any, raw: dict[str, Any]
) -> None:
    rows = part(raw, "together")
    for row in rows:
        rate = 100.0 if row["case"] == "pinned copies" else 79.0
        row["together_gbps"] = [rate - 30, rate, rate + 30]
    rows[-1]["together_gbps"] = [80.0]
    page = made(ranks_page, raw)
    assert "| restore, tmpfs, again | 79.0 | 49.0 to 109.0 | 0.79 |" in page
    assert "tmpfs, again | at least 0.8 of the buses | 0.79 of the buses (1.00 of" in page
    assert "0.79 of the buses (1.00 of reads alone) | **no** |" in page
    assert "restore, pinned | at least 0.8 of the buses | 0.8 of the buses | yes |" in page


def test_other_tokens_of_a_large_model_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    row = next(row for row in part(raw, "large") if row["case"] == "thaw, first")
    for done in row["done"]:
        if done["action"] == "decode":
            done["equal"] = False
        elif done["action"] == "verify":
            done["value"]["differences"] = ["rank 1: 'a' differs"]
    page = made(ranks_page, raw)
    assert "| **differ** |" in page
    assert "tensors, 1 differ." in page


def test_a_fault_that_was_not_handled_is_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    fault, *_ = part(raw, "faults")
    fault |= {"hung": True, "passed": False, "sign": []}
    del fault["sign_to_end_s"]
    page = made(ranks_page, raw)
    assert "|  | hung (**not as it should**) | **nothing** |" in page
