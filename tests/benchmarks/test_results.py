"""Every file of results has one shape, and its figures are what its rows give."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import thaw

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*"))
KEYS = {"machine", "versions", "settings", "runs", "figures", "rows"}
FIGURE = {"name", "bound", "aim", "found", "unit", "reached", "note"}
WITHOUT_AIMS = {
    *("engine_figures_gemma.json", "engine_figures_more.json", "engine_figures_phi.json"),
    "native_cpu.json",
}


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def found(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_results_have_one_shape(path: Path, found: dict[str, Any]) -> None:
    assert {"machine", "figures", "rows"} <= found.keys() <= KEYS
    assert found["rows"]
    assert all(isinstance(row["case"], str) for row in found["rows"])
    assert all(each.keys() == FIGURE for each in found["figures"])
    assert all(each["bound"] in ("at least", "at most") for each in found["figures"])
    assert bool(found["figures"]) is (path.name not in WITHOUT_AIMS)


def test_figures_are_what_the_rows_give(path: Path, found: dict[str, Any]) -> None:
    rows = found["rows"]
    if path.name == "line_rate.json":
        made = import_module("line_rate_results").LineRate(found).figures()
    elif path.name == "reference.json":
        made = import_module("reference").figures(rows)
    elif path.name == "before_after.json":
        figures = import_module("before_after").figures
        made = [figure for row in rows for figure in figures(row)]
    elif path.name == "import_time.json":
        made = import_module("import_time").figures(rows)
    elif path.name == "beside.json":
        made = import_module("beside").figures(rows)
    elif path.name == "session_matrix.json":
        made = import_module("session_matrix").figures(rows)
    elif path.name in import_module("sessions_page").FILES:
        made = import_module("sessions_results").figures(rows)
    elif path.name == "parity.json":
        complete = found["settings"]["complete"]
        made = import_module("check").parity_figures(rows, complete=complete)
    else:
        made = import_module("engines_results").figures(rows)
    assert [asdict(figure) for figure in made] == found["figures"]


@pytest.mark.parametrize(
    ("judge", "enough", "short"), [("at_least", 2.0, 1.9), ("at_most", 2.0, 2.1)]
)
def test_wrong_or_unmeasured_is_not_reached(judge: str, enough: float, short: float) -> None:
    compare = getattr(import_module("results"), judge)
    assert compare("a", 2.0, "s", enough).reached is True
    assert compare("a", 2.0, "s", short).reached is False
    assert compare("a", 2.0, "s", enough, right=False).reached is False
    assert compare("a", 2.0, "s", None).reached is None


def test_no_results_make_no_page(tmp_path: Path) -> None:
    make_pages = import_module("make_pages")
    assert make_pages.pages(tmp_path) == {}
    assert make_pages.headlines(tmp_path) == ""


def test_engines_add_rows_of_the_shape_and_judge_all_of_them(tmp_path: Path) -> None:
    path, cpu = tmp_path / "engines.json", torch.device("cpu")
    for part, row in (
        ("modes", {"mode": "graphs", "passed": True}),
        ("decoding", {"name": "llama", "kind": "loaded", "passed": False}),
        ("decoding", {"name": "llama", "kind": "processed", "passed": True}),
    ):
        import_module("engines").Results(path, cpu, "abc").add(part, [row])
    found = json.loads(path.read_text())
    assert {"machine", "versions", "figures", "rows"} == found.keys()
    assert found["machine"]["commit"] == "abc"
    assert [(row["part"], row["case"]) for row in found["rows"]] == [
        ("modes", "graphs"),
        ("decoding", "llama"),
        ("decoding", "llama"),
    ]
    assert [(figure["found"], figure["reached"]) for figure in found["figures"]] == [
        (1, False),
        (0, True),
    ]


@pytest.mark.slow
def test_what_thaw_bench_wrote_becomes_results_and_a_page(tmp_path: Path) -> None:
    pytest.importorskip("thaw_native", reason="the native backend is not installed")
    thaw.freeze({"a": torch.ones(1_000_000)}, tmp_path / "a.thaw")
    out = tmp_path / "native_cpu.json"
    script = Path(__file__).parents[2] / "benchmarks" / "native_cpu.py"
    command = [sys.executable, script, tmp_path / "a.thaw", "--repeat", "1", "--out", out]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(out.read_text())
    assert found.keys() == {"machine", "settings", "figures", "rows"}
    page = import_module("make_pages").pages(tmp_path)["native_cpu.md"]
    assert "| restore again | native |" in page
    assert "| memcpy | " in page
