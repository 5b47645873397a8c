"""Rows: shares, backends that are not there, and processes that die."""

import os
import sys
from pathlib import Path

import pytest

from thaw.bench.rows import Row, measure_rows, run_child, summarize
from thaw.bench.task import AGAIN, COLD, FIRST, FREEZE, PIN, PROBE, Sample, Task
from thaw.bench.ways import Ceiling, Way
from thaw.plugins.host import BrokenPlugin, registry

MEMCPY = Ceiling("memcpy", 10.0, (Way("1 thread", 10.0, 9.0, 11.0),))
WRITE = Ceiling("write", 2.0, (Way("buffered", 2.0, 2.0, 2.0),))


def task(model: Path, *operations: str, repeat: int = 1) -> Task:
    folder = str(model.parent)
    return Task(str(model), "reference", "cpu", folder, repeat, operations=operations)


def test_a_row_has_the_median_and_its_share(model: Path) -> None:
    samples = [Sample(AGAIN, s, 10**9, "host", True) for s in (0.25, 0.2, 1.0)]
    row = summarize(task(model), samples, MEMCPY)
    assert (row.gbps, row.share, row.ceiling) == (4.0, 0.4, "memcpy")
    assert (row.identical, row.failed) == (True, False)
    assert row.elapsed_s == (0.25, 0.2, 1.0)


def test_one_wrong_run_is_a_wrong_row(model: Path) -> None:
    samples = [Sample(AGAIN, 1.0, 1, "host", good) for good in (True, False, True)]
    row = summarize(task(model), samples, MEMCPY)
    assert row.identical is False
    assert row.failed


def test_an_error_after_good_runs_is_kept(model: Path) -> None:
    samples = [Sample(AGAIN, 1.0, 10**9, "host", True), Sample(AGAIN, error="no space")]
    row = summarize(task(model), samples, None)
    assert (row.gbps, row.share, row.error, row.failed) == (1.0, None, "no space", True)


def test_pinning_compares_no_bytes(model: Path) -> None:
    row = summarize(task(model), [Sample(PIN, 0.5, 10**9)], None)
    assert (row.identical, row.share, row.failed) == (None, None, False)


def test_rows_of_the_reference(model: Path) -> None:
    said: list[str] = []
    todo = task(model, AGAIN, FREEZE, repeat=2)
    rows = measure_rows(todo, ["reference"], [MEMCPY, WRITE], notify=said.append)
    assert [(row.operation, row.ceiling, len(row.elapsed_s)) for row in rows] == [
        (FIRST, "memcpy", 2),
        (AGAIN, "memcpy", 2),
        (FREEZE, "write", 2),
    ]
    assert all(row.identical and row.share and not row.failed for row in rows)
    assert said[0] == "reference: restore first (process 1 of 2)"
    assert list(model.parent.iterdir()) == [model]


def test_a_cold_restore_is_compared_with_the_disk_of_the_folder(
    model: Path, tmp_path: Path
) -> None:
    disk = Ceiling("read-direct", 1.0, ())
    rows = measure_rows(task(model, COLD), ["reference"], [MEMCPY, disk])
    assert [row.operation for row in rows] == [FIRST, COLD]
    if rows[1].error is None:
        assert (rows[1].ceiling, rows[1].identical) == ("read-direct", True)
    else:
        assert "the page cache keeps" in rows[1].error


def test_what_is_not_available_is_a_row(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BrokenPlugin("sunken", "thaw-sunken", "ImportError: no such ship")
    monkeypatch.setattr(registry(), "broken", [broken])
    todo = Task(str(model), "", "cuda:99", str(model.parent), 1)
    rows = measure_rows(todo, ["reference", "sunken"], [])
    assert [(row.backend, row.operation, row.available) for row in rows] == [
        ("reference", PROBE, False),
        ("sunken", PROBE, False),
    ]
    assert "torch sees" in str(rows[0].error)
    assert rows[1].error == "its plugin is broken: ImportError: no such ship"
    assert not any(row.failed for row in rows)
    assert isinstance(rows[0], Row)


def test_a_process_that_dies_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = model.parent / "dying"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        'print(\'{"operation": "restore again", "began": true}\', flush=True)\n'
        "print('out of luck', file=sys.stderr, flush=True)\n"
        "os._exit(7)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    found = list(run_child(task(model)))
    assert found[-1] == Sample(AGAIN, error="the process ended with 7: out of luck")


def test_a_process_ends_with_whoever_waits_for_it(model: Path) -> None:
    running = run_child(task(model, AGAIN, repeat=10**9))
    next(running)
    before = children()
    running.close()
    assert len(children()) == len(before) - 1


def children() -> list[str]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return listed.split()
