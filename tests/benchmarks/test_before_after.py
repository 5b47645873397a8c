"""The comparison of two trees, of this one with itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_trees_do_the_same_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "before_after.py"), str(ROOT)]
    command += ["--device", "cpu", "--nbytes", "1000000", "--many", "1000000", "--count", "50"]
    command += ["--pairs", "3", "--tmpfs", str(tmp_path), "--disk", str(tmp_path)]
    command += [
        "--out",
        str(out),
        "--only",
        "many*/native",
    ]
    command += ["--only", "restore/*/cupy", "--only", "freeze/disk/native"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(out.read_text())
    rows = {row["case"]: row for row in found["rows"]}
    assert "cannot serve" in rows.pop("restore/tmpfs/cupy")["reason"]
    assert set(rows) == {"many/tmpfs/native", "many-into/tmpfs/native", "freeze/disk/native"}
    for row in rows.values():
        assert row["identical"], row
        assert all(len(samples) == 3 for samples in row["samples_s"].values()), row
    assert [figure["name"] for figure in found["figures"]] == [
        f"{name}: seconds before / after" for name in rows
    ]
    assert all(
        figure["reached"] == (figure["found"] >= figure["aim"]) for figure in found["figures"]
    )
