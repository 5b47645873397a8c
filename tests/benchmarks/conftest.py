from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent / "scripts" / "gpu"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "line_rate.json"


@pytest.fixture
def line_rate(tmp_path: Path, out: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the benchmark on the CPU with two megabytes."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        for folder in ("tmpfs", "disk"):
            (tmp_path / folder).mkdir(exist_ok=True)
        command = [sys.executable, str(BENCHMARKS / "line_rate.py"), "--device", "cpu"]
        command += ["--nbytes", "2000000", "--count", "100", "--again", "2", "--processes", "1"]
        command += ["--tmpfs", str(tmp_path / "tmpfs"), "--disk", str(tmp_path / "disk")]
        command += ["--out", str(out), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def rows(out: Path) -> Callable[[], dict[tuple[str, str], Any]]:
    def read() -> dict[tuple[str, str], Any]:
        found = json.loads(out.read_text())["rows"]
        return {(row["case"], row["what"]): row for row in found if "samples_s" in row}

    return read


@pytest.fixture
def missing(out: Path) -> Callable[[], dict[str, str]]:
    """Read why cases were not measured."""

    def read() -> dict[str, str]:
        found = json.loads(out.read_text())["rows"]
        return {row["case"]: row["reason"] for row in found if "reason" in row}

    return read
