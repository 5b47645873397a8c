"""`thaw bench` in processes of its own, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest
from typer.testing import CliRunner

from thaw.bench import plot
from thaw.bench.document import document
from thaw.bench.rows import Row
from thaw.bench.shapes import BenchJSON
from thaw.bench.task import Task
from thaw.cli import benching
from thaw.cli.app import app
from thaw.cli.bench_table import show
from thaw.cli.drawing import standard_output
from thaw.plugins.host import BrokenPlugin, registry

SMALL = ("--ceiling-gib", "0.01", "--repeat", "1", "--device", "cpu")
PLUGIN = """
import os, time
import thaw
from thaw.plugins.reference import ReferenceBackend

class Flipping(ReferenceBackend):
    name = "flipping"
    def read(self, source, plan, *, progress=None):
        print("a library that talks")
        done = super().read(source, plan, progress=progress)
        plan.extents[0].memory[0] ^= 1
        return done

class Dying(ReferenceBackend):
    name = "dying"
    def read(self, source, plan, *, progress=None):
        os._exit(9)

class Absent(ReferenceBackend):
    name = "absent"
    def probe(self, device):
        return thaw.Support(False, "out of order")

class Stuck(ReferenceBackend):
    name = "stuck"
    def write(self, target, plan, *, progress=None):
        time.sleep(120)

@thaw.hookimpl
def thaw_register_backends():
    return [Absent(), Dying(), Flipping(), Stuck()]
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Make a plugin that a fresh process finds."""
    site = tmp_path / "site"
    info = site / "thaw_odd-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thaw_odd.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thaw-odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[thaw]\nodd = thaw_odd\n")
    return os.environ | {"PYTHONPATH": str(site)}


def bench(
    model: Path, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thaw", "bench", str(model), *SMALL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def check_members(value: Any, kind: Any) -> None:
    """Check that a document has every member of its shape, each of its type."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert value.keys() == hints.keys()
        for name, hint in hints.items():
            check_members(value[name], hint)
    elif isinstance(kind, UnionType):
        assert type(value) in get_args(kind)
    elif getattr(kind, "__origin__", None) is list:
        for each in value:
            check_members(each, get_args(kind)[0])
    elif getattr(kind, "__origin__", None) is dict:
        assert all(type(each) is get_args(kind)[1] for each in value.values())
    else:
        assert type(value) is kind


def test_json_has_its_shape_and_the_file_is_the_same(model: Path, tmp_path: Path) -> None:
    done = bench(model, "--json", "--cold", "--backend", "reference", "-o", tmp_path / "r.json")
    assert done.stderr == ""
    found = json.loads(done.stdout)
    check_members(found, BenchJSON)
    assert found == json.loads((tmp_path / "r.json").read_text())
    assert (found["schema"], found["schema_version"]) == ("thaw.bench", 1)
    operations = ["restore first", "restore again", "restore into", "freeze", "restore cold"]
    assert [row["operation"] for row in found["rows"]] == operations
    assert all(row["identical"] and row["share"] > 0 for row in found["rows"][:4])
    assert sorted(tmp_path.iterdir()) == [model, tmp_path / "r.json"]
    assert done.returncode == (1 if found["rows"][4]["error"] else 0)


@pytest.mark.slow
def test_odd_backends_are_rows(model: Path, environment: dict[str, str]) -> None:
    named = [f"--backend={name}" for name in ("reference", "flipping", "dying")]
    done = bench(model, "--json", *named, environment=environment)
    assert done.returncode == 1, done.stderr
    rows = json.loads(done.stdout)["rows"]
    by_backend = {
        row["backend"]: [r for r in rows if r["backend"] == row["backend"]] for row in rows
    }
    assert {row["identical"] for row in by_backend["reference"]} == {True}
    flipping = {row["operation"]: row["identical"] for row in by_backend["flipping"]}
    assert flipping == {
        "restore first": False,
        "restore again": False,
        "restore into": False,
        "freeze": True,
    }
    (dying,) = by_backend["dying"]
    assert (dying["operation"], dying["elapsed_s"]) == ("restore first", [])
    assert "ended with 9" in dying["error"]


def test_the_table_says_it_all(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BrokenPlugin("sunken", "thaw-sunken", "ImportError: no such ship")
    monkeypatch.setattr(registry(), "broken", [broken])
    done = CliRunner().invoke(app, ["bench", str(model), *SMALL])
    assert (done.exit_code, done.stderr) == (0, "")
    for word in ("memcpy", "read-page-cache", "read-direct", "write", "GB/s", "✓ identical"):
        assert word in done.stdout
    assert "! sunken, probe: its plugin is broken: ImportError: no such ship" in done.stdout


def test_the_table_says_what_is_wrong(model: Path) -> None:
    bad = Row("odd", "cpu", "freeze", "host", (1.0, 2.0), 10**9, False, "write", 1.5)
    failed = Row("odd", "cpu", "restore into", error="the bus is on fire")
    task = Task(str(model), "", "cpu", str(model.parent))
    console = standard_output()
    with console.capture() as capture:
        show(console, document(task, [], [bad, failed]))
    shown = capture.get()
    for word in ("1.000 to 2.000", "0.67", "150%", "✗ different", "✗ failed"):
        assert word in shown
    assert "odd, restore into: the bus is on fire" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--backend", "nobody"), 2, "there is no backend 'nobody'"),
        (("--device", "mps"), 2, "give cpu or cuda"),
        (("--device", "toaster"), 2, "is no device"),
        (("--plot", "x.pdf"), 2, ".svg or .png"),
        (("--output", "no/such/folder.json"), 1, "No such file or directory"),
        (("--output", "."), 1, "Is a directory"),
        (("--folder", "no/such/folder"), 2, "does not exist"),
        (("--rank", "4"), 1, "has no rank 4"),
    ],
)
def test_errors_come_before_the_measurement(
    arguments: tuple[str, ...],
    status: int,
    words: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benching, "measure_ceilings", None)
    done = CliRunner().invoke(app, ["bench", str(model), *SMALL, *arguments])
    assert done.exit_code == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_named_backend_that_cannot_serve_is_exit_3(
    model: Path, environment: dict[str, str]
) -> None:
    done = bench(model, "--backend", "absent", environment=environment)
    assert (done.returncode, done.stdout) == (3, "")
    assert "out of order" in done.stderr


def test_a_file_that_is_no_snapshot_is_exit_1(tmp_path: Path) -> None:
    (tmp_path / "x.thaw").write_bytes(b"no snapshot" * 1000)
    done = bench(tmp_path / "x.thaw")
    assert done.returncode == 1
    assert "not a .thaw file" in done.stderr


def test_no_backend_at_all_is_exit_3(model: Path) -> None:
    done = CliRunner().invoke(app, ["bench", str(model), *SMALL, "--device", "cuda:99", "--json"])
    assert done.exit_code == 3
    (row, *_) = json.loads(done.stdout)["rows"]
    assert not row["available"]


def test_a_plot_without_matplotlib_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["bench", str(model), *SMALL, "--plot", "x.svg"])
    assert done.exit_code == 2
    assert "pip install 'thaw-snapshot[bench]'" in done.stderr


def test_a_plot_is_drawn(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = bench(model, "--plot", tmp_path / "x.svg", "--quiet", "--backend", "reference")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "<svg" in (tmp_path / "x.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["ceilings", "freeze"])
def test_an_interrupt_leaves_nothing(
    model: Path, tmp_path: Path, phase: str, environment: dict[str, str]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    prepare = "import signal, thaw.cli; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{prepare}; thaw.cli.main()", "bench", str(model), *SMALL]
    command += ["--folder", str(scratch), "--backend", "stuck"]
    command += ["--ceiling-gib", "1", "--repeat", "5"] if phase == "ceilings" else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            deadline = time.monotonic() + 60
            while not _reached(phase, scratch, running.pid):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, said) == (130, "thaw: interrupted\n")
    assert list(scratch.iterdir()) == []


def _reached(phase: str, scratch: Path, pid: int) -> bool:
    if phase == "freeze":
        return any(scratch.glob(".thaw-bench-*/*"))
    for each in Path(f"/proc/{pid}/fd").iterdir():
        # A file may be closed meanwhile.
        with suppress(FileNotFoundError):
            if str(scratch) in os.readlink(each):
                return True
    return False
