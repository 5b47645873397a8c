"""The command line as a user meets it: output, errors, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import thaw
from thaw.cli.app import app

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def spawn(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thaw", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tensors = {f"layer.{i}.weight": torch.randn(16, 8) for i in range(3)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    w = torch.randn(8, 4)
    tensors = {"embed": w, "head": w, "t": w.T, "scale": torch.tensor(1.5)}
    thaw.freeze(tensors, tmp_path / "m.thaw", metadata={"note": "[red]x[/red]\x1b[31m"})
    return tmp_path / "m.thaw"


def test_there_and_back(checkpoint: Path, tmp_path: Path) -> None:
    assert run("freeze", checkpoint, "-o", tmp_path / "m.thaw").exit_code == 0
    assert run("verify", tmp_path / "m.thaw").exit_code == 0
    found = run("restore", tmp_path / "m.thaw", "--to", tmp_path / "out", "--json")
    assert json.loads(found.stdout)["files"] == [str(tmp_path / "out" / "model.safetensors")]
    one, two = load_file(checkpoint), load_file(tmp_path / "out" / "model.safetensors")
    assert {n: t.tolist() for n, t in one.items()} == {n: t.tolist() for n, t in two.items()}
    assert run("diff", checkpoint, tmp_path / "m.thaw").exit_code == 0


def test_inspect_shows_what_a_person_looks_for(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(snapshot.parent)
    shown = run("inspect", snapshot.name).stdout
    for word in ("m.thaw", "weights", "CRC32C", "float32", "embed = head", "scalar", "100.0%"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_inspect_escapes_names(tmp_path: Path) -> None:
    names = ["[bold]x[/bold]", "a\x1b[31mred", "b\u202egnp.exe", "line\nbreak"]
    thaw.freeze({name: torch.ones(2) for name in names}, tmp_path / "x.thaw")
    shown = run("inspect", tmp_path / "x.thaw").stdout
    assert "[bold]x[/bold]" in shown
    assert "\\u{1b}" in shown
    assert "\\u{202e}" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_tensor_table(snapshot: Path) -> None:
    rows = json.loads(run("inspect", snapshot, "--json", "--sha256").stdout)["tensors"]
    assert [row["name"] for row in rows] == ["embed", "head", "scale", "t"]
    assert rows[0]["sha256"] == rows[1]["sha256"] != rows[3]["sha256"]
    plain = json.loads(run("inspect", snapshot, "--json").stdout)
    assert "sha256" not in plain["tensors"][0]
    assert plain["format"] == "thaw"


def test_damage_is_one_line_and_exit_1(snapshot: Path) -> None:
    data = bytearray(snapshot.read_bytes())
    data[-4096] ^= 1
    snapshot.write_bytes(data)
    found = spawn("verify", snapshot)
    assert found.returncode == 1
    assert found.stdout == ""
    assert len(found.stderr.splitlines()) == 1
    assert "PAY-1" in found.stderr
    found = spawn("inspect", snapshot, "--json", "--sha256")
    assert json.loads(found.stderr.splitlines()[-1])["code"] == "chunk-checksum"
    assert found.returncode == 1


def test_differences_are_exit_1(snapshot: Path, tmp_path: Path) -> None:
    other = dict(thaw.restore(snapshot))
    other["embed"] = other["embed"].clone()
    other["embed"].view(-1)[3] += 1
    other["more"] = torch.ones(1)
    thaw.freeze(other, tmp_path / "b.thaw")
    found = run("diff", snapshot, tmp_path / "b.thaw")
    assert found.exit_code == 1
    assert "only in b: more" in found.stdout
    assert "embed: bytes differs" in found.stdout
    assert not json.loads(run("diff", snapshot, tmp_path / "b.thaw", "--json").stdout)["identical"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("inspect", "nothing.thaw"), 1, "No such file"),
        (("inspect", "."), 1, "holds no snapshot"),
        (("verify", "/dev/null"), 1, "character device"),
        (("freeze", "{m}", "-o", "{d}/no/x.thaw"), 1, "No such file"),
        (("freeze", "{m}", "-o", "{d}/x.thaw", "--backend", "warp"), 2, "known here: auto"),
        (("freeze", "{m}", "-o", "{d}/x.thaw", "--names", "zzz"), 1, "no tensor has a name like"),
        (("convert", "{m}", "{d}/x.gguf"), 2, "not plain from its name"),
        (("freeze", "{m}"), 2, "--output"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors(
    arguments: tuple[str, ...], status: int, words: str, snapshot: Path, tmp_path: Path
) -> None:
    found = spawn(*(each.format(m=snapshot, d=tmp_path) for each in arguments))
    assert found.returncode == status
    assert words in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_an_unavailable_backend_is_exit_3(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thaw.plugins.reference import ReferenceBackend

    unavailable = thaw.Support(False, "out of order")
    monkeypatch.setattr(ReferenceBackend, "probe", lambda *_: unavailable)
    found = run("restore", snapshot, "--to", snapshot.parent / "o", "--backend", "reference")
    assert found.exit_code == 3
    assert "out of order" in found.stderr


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    names = {f"tensor.{i}": torch.ones(1) for i in range(5000)}
    thaw.freeze(names, tmp_path / "x.thaw")
    command = f"{sys.executable} -m thaw inspect --tensors {tmp_path / 'x.thaw'} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_lists_and_version() -> None:
    assert "reference" in run("backends").stdout
    assert json.loads(run("backends", "--json").stdout)[0]["support"]["cpu"]["available"]
    assert {each["name"] for each in json.loads(run("formats", "--json").stdout)} == {
        "thaw",
        "safetensors",
    }
    assert json.loads(run("version", "--json").stdout)["format"] == "1.0"


def test_the_reference_is_current() -> None:
    command = [sys.executable, ROOT / "scripts" / "make_cli_reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_becomes_of_an_interrupt_in_a_lock_is_one(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(thaw, "verify", verify)
    found = run("verify", snapshot)
    assert found.exit_code == 130
    assert "interrupted" in found.stderr
    assert "lock" not in found.stderr
