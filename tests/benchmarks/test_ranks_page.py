"""The page about two GPUs says what is in the results, and what is wrong there."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def ranks_page() -> Any:
    return import_module("ranks_page")


@pytest.fixture
def raw(ranks_page: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ranks_page.RESULTS.read_text())
    return found


def test_nothing_is_made_of_nothing(ranks_page: Any, tmp_path: Path) -> None:
    assert ranks_page.files(tmp_path / "none.json", tmp_path) == {}


def test_the_committed_results_are_all_right(ranks_page: Any, raw: dict[str, Any]) -> None:
    assert all(row["passed"] for row in (*raw["decoding"], *raw["faults"]))
    assert {(row["name"], row["kind"]) for row in raw["decoding"]} >= {
        (name, kind) for name in ("Llama-3.1-8B",) for kind in ("loaded", "processed")
    }
    page = ranks_page.page(raw)
    for wrong in ("**different**", "**differ**", "**failed**", "**nothing**", "hung"):
        assert wrong not in page


def test_other_logprobs_and_tensors_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    raw["decoding"][0] |= {"logprobs_equal": False, "differences": ["a", "b"]}
    raw["decoding"][1] = {"name": "Llama", "kind": "loaded", "error": "it broke"}
    page = ranks_page.page(raw)
    assert "| **no** | **2 differ** |" in page
    assert "| Llama | loaded | | | **failed**: it broke | |" in page


def test_tensors_that_are_not_identical_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    checked = next(row for row in raw["together"] if "checked" in row["way"])
    checked["ranks"][1]["identical"] = False
    assert "**different**" in ranks_page.page(raw)


def test_rates_are_shares_of_what_both_buses_move_at_once(
    ranks_page: Any, raw: dict[str, Any]
) -> None:
    for row in raw["together"]:
        rate = 100.0 if row["way"] == "pinned copies" else 79.0
        row["together_gbps"] = [rate - 30, rate, rate + 30]
    raw["together"][-1]["together_gbps"] = [80.0]
    page = ranks_page.page(raw)
    assert "| restore, tmpfs, again | 79.0 | 49.0 to 109.0 | 0.79 |" in page
    assert "| restore, tmpfs, again | 0.79 | **no** | 1.00 |" in page
    assert "| restore, pinned | 0.80 | yes |  |" in page


def test_other_tokens_of_a_large_model_are_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    row = next(row for row in raw["large"] if row["name"] == "thaw, first")
    for done in row["done"]:
        if done["action"] == "decode":
            done["equal"] = False
        elif done["action"] == "verify":
            done["value"]["differences"] = ["rank 1: 'a' differs"]
    page = ranks_page.page(raw)
    assert "| **differ** |" in page
    assert "tensors, 1 differ." in page


def test_a_fault_that_was_not_handled_is_said(ranks_page: Any, raw: dict[str, Any]) -> None:
    raw["faults"][0] |= {"hung": True, "passed": False, "sign": []}
    del raw["faults"][0]["sign_to_end_s"]
    page = ranks_page.page(raw)
    assert "|  | hung (**not as it should**) | **nothing** |" in page
