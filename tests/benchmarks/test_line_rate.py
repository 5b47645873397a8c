"""The harness of the line-rate benchmark, on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_measures_and_checks_the_reference_end_to_end(line_rate, rows, out, tmp_path) -> None:
    done = line_rate("--only", "restore/tmpfs/reference", "--only", "checkpoint/tmpfs/ref*")
    assert done.returncode == 0, done.stderr
    found = rows()
    for case in ("restore/tmpfs/reference", "checkpoint/tmpfs/reference"):
        for what, samples in (("first", 1), ("again", 1), ("into", 1)):
            row = found[case, what]
            assert row["identical"] is True
            assert len(row["samples_s"]) == samples
            assert min(row["samples_s"]) > 0
            assert row["tensors"] == 291
            assert row["route"] == "host"
    assert found["restore/tmpfs/reference", "first"]["chunks_checked"] > 0
    assert found["checkpoint/tmpfs/reference", "first"]["chunks_checked"] == 0
    assert not list((tmp_path / "tmpfs").iterdir()), "files stay behind"


def test_plain_transfers_come_between_the_samples(line_rate, rows) -> None:
    pytest.importorskip("thaw_native", reason="the native backend is not installed")
    assert line_rate("--only", "freeze/disk/native").returncode == 0
    for what in ("first", "again"):
        row = rows()["freeze/disk/native", what]
        assert row["identical"] is True
        assert [len(times) for times in row["plain_s"].values()] == [3, 3]
        assert min(map(min, row["plain_s"].values())) > 0


def test_a_checkpoint_is_restored_beside_the_file_without_digests(line_rate, rows) -> None:
    pytest.importorskip("thaw_native", reason="the native backend is not installed")
    assert line_rate("--only", "checkpoint/tmpfs/native").returncode == 0
    for what, count in (("first", 1), ("again", 6), ("into", 6)):
        row = rows()["checkpoint/tmpfs/native", what]
        assert row["identical"] is True
        assert row["chunks_checked"] == 0
        (times,) = row["plain_s"].values()
        assert len(times) == len(row["samples_s"]) == count


def test_a_backend_that_is_not_there_is_a_row_with_a_reason(line_rate, rows, missing) -> None:
    # The name is of a backend that has no CPU path or is not installed: either way a reason.
    assert line_rate("--only", "*/gds").returncode == 0
    assert not rows()
    reasons = missing()
    assert {"restore/tmpfs/gds", "freeze/disk/gds"} <= reasons.keys()
    assert all("BackendError" in reason and "gds" in reason for reason in reasons.values())


def test_a_peer_that_is_not_there_is_a_row_with_a_reason(
    line_rate, rows, missing, tmp_path
) -> None:
    broken = tmp_path / "peers" / "instanttensor"
    broken.mkdir(parents=True)
    (broken / "instanttensor.py").write_text("raise ModuleNotFoundError('no such thing here')\n")
    peers = ("--only", "peer/tmpfs/instanttensor/*", "--only", "peer/tmpfs/safetensors/*")
    assert line_rate(*peers, "--peers", str(tmp_path / "peers")).returncode == 0
    assert missing().keys() >= {"peer/tmpfs/instanttensor/default"}
    assert all("no such thing here" in reason for reason in missing().values())
    assert rows()["peer/tmpfs/safetensors/default", "again"]["identical"] is True


def test_a_wrong_byte_is_not_identical(line_rate, rows, tmp_path) -> None:
    options = ("--only", "peer/tmpfs/safetensors/*", "--keep")
    assert line_rate(*options).returncode == 0
    shard = max((tmp_path / "tmpfs" / "thaw-line-rate" / "checkpoint").glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    done = line_rate(*options)
    assert done.returncode == 1
    assert "NOT IDENTICAL" in done.stdout
    assert rows()["peer/tmpfs/safetensors/default", "first"]["identical"] is False


@pytest.mark.parametrize("loader", ["torch", "safetensors"])
def test_peers_that_come_with_torch_load_what_they_saved(line_rate, rows, loader: str) -> None:
    done = line_rate("--only", f"save/tmpfs/{loader}", "--only", f"peer/tmpfs/{loader}/*")
    assert done.returncode == 0, done.stderr
    assert rows()[f"save/tmpfs/{loader}", "first"]["nbytes"] > 1_500_000
    assert rows()[f"peer/tmpfs/{loader}/default", "first"]["identical"] is True


def test_a_spent_budget_says_what_was_not_run(line_rate, missing) -> None:
    assert line_rate("--only", "freeze/*", "--budget-s", "0").returncode == 0
    assert missing().keys() >= {"freeze/tmpfs/native", "freeze/disk/reference"}
    assert all(reason.startswith("not run") for reason in missing().values())


def test_results_survive_a_kill(out: Path, tmp_path: Path) -> None:
    for folder in ("tmpfs", "disk"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, BENCHMARKS / "line_rate.py", "--device", "cpu", "--out", out]
    command += ["--nbytes", "2000000", "--count", "100", "--only", "*/reference"]
    command += ["--tmpfs", tmp_path / "tmpfs", "--disk", tmp_path / "disk"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not out.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    raw = json.loads(out.read_text())
    assert raw["rows"]
    assert raw["rows"][0]["identical"] is True


def test_appends_to_results_of_the_same_sizes_alone(line_rate, rows, out) -> None:
    assert line_rate("--only", "freeze/tmpfs/reference").returncode == 0
    assert line_rate("--only", "freeze/disk/reference", "--append").returncode == 0
    assert {case for case, _ in rows()} == {"freeze/tmpfs/reference", "freeze/disk/reference"}
    assert [row["run"] for row in rows().values()] == [0, 1]
    other = line_rate("--only", "freeze/disk/reference", "--append", "--count", "50")
    assert other.returncode != 0
    assert "other settings" in other.stderr
