"""`thaw sessions` lists what engines would find, and removes what is too much."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from made_sessions import ENGINE, age, freeze, session
from typer.testing import CliRunner, Result

import thaw
from thaw.cli.app import app
from thaw.cli.shapes import OUTPUTS, SessionJSON
from thaw.cli.text import ago
from thaw.vllm.kv.record import Adapter, Media

DAY = 86400.0


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def spawn(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thaw", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make two sessions and one that is broken."""
    folder = tmp_path / "sessions"
    folder.mkdir()
    said = session(
        1600,
        adapter=Adapter("tales", "ab" * 32),
        salt_sha256="cd" * 32,
        media=(Media("cat", 3, 9),),
        engine={**ENGINE, "more": [1, {"2": None}]},
    )
    age(freeze(folder / "alice.thaw", said), frozen_s=9 * DAY, used_s=3 * DAY)
    age(freeze(folder / "bob.thaw", ranks=2), frozen_s=7400, used_s=300)
    (folder / "torn.thaw").write_bytes(b"no session")
    return folder


def check_shape(value: Any, kind: Any) -> None:
    assert value.keys() == kind.__annotations__.keys()
    for name, member in get_type_hints(kind).items():
        allowed = {getattr(each, "__origin__", each) for each in get_args(member) or (member,)}
        allowed = {list} if getattr(member, "__origin__", None) is list else allowed
        assert type(value[name]) in allowed, name


def test_the_table(folder: Path) -> None:
    done = run("sessions", folder)
    assert done.exit_code == 0
    head, alice, bob, torn, total = done.stdout.splitlines()
    assert head.split() == ["session", "model", "tokens", "bytes", "frozen", "used", "fits"]
    for word in (
        "alice",
        "LlamaForCausalLM",
        "1,600",
        "9 days ago",
        "3 days ago",
        "bfloat16, cache auto, FLASH, vLLM 0.26.0, blocks of 16, 1 rank, adapter tales, a salt",
    ):
        assert word in alice
    for word in ("bob", "64", "2 h ago", "5 min ago", "2 ranks"):
        assert word in bob
    assert torn.split()[0] == "torn"
    assert "not a .thaw file: it begins with 6e 6f" in torn
    assert total.startswith("2 sessions, ")
    assert total.endswith("; 1 cannot be used")


def test_the_json(folder: Path) -> None:
    found = json.loads(run("sessions", folder, "--json").stdout)
    check_shape(found, OUTPUTS["sessions"])
    for each in found["sessions"]:
        check_shape(each, SessionJSON)
    alice, bob, torn = found["sessions"]
    assert found["nbytes"] == alice["nbytes"] + bob["nbytes"]
    with thaw.open(folder / "alice.thaw") as snapshot:
        assert alice["snapshot_id"] == snapshot.snapshot_id
    said = {
        "name": "alice",
        "path": str(folder / "alice.thaw"),
        "tokens": 1600,
        "nbytes": (folder / "alice.thaw").stat().st_size,
        "ranks": 1,
        "model": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "vllm": "0.26.0",
        "cache_dtypes": ["auto"],
        "attention": ["FLASH"],
        "block_tokens": [16],
        "adapter": "tales",
        "salted": True,
        "media": 1,
        "fingerprints": ["0f" * 32],
        "error": None,
    }
    assert {key: alice[key] for key in said} == said
    assert alice["frozen_at"] < alice["used_at"] < bob["frozen_at"]
    assert alice["used_at"].endswith("+00:00")
    assert (bob["ranks"], bob["adapter"], bob["salted"]) == (2, None, False)
    assert (torn["tokens"], torn["model"], torn["fingerprints"]) == (0, None, [])
    assert torn["error"].endswith("[bad-magic, SB-2]")


def test_only_where_it_is_asked_for_is_a_broken_one_a_failure(folder: Path) -> None:
    assert run("sessions", folder, "--strict").exit_code == 1
    assert run("sessions", folder, "--strict", "--json").exit_code == 1
    assert "alice" in run("sessions", folder, "--strict").stdout
    (folder / "torn.thaw").unlink()
    assert run("sessions", folder, "--strict").exit_code == 0


def test_names_and_what_files_say_are_escaped(tmp_path: Path) -> None:
    engine = {"model": "[red]x[/red]\x1b[31m", "dtype": None, "vllm": 26}
    freeze(tmp_path / "a\x1b[31mb.thaw", session(engine=engine))
    shown = run("sessions", tmp_path).stdout
    assert "\x1b" not in shown
    assert "a\\u{1b}[31mb" in shown
    assert "[red]x[/red]\\u{1b}[31m" in shown
    (found,) = json.loads(run("sessions", tmp_path, "--json").stdout)["sessions"]
    assert (found["model"], found["dtype"], found["vllm"]) == (engine["model"], None, "26")


def test_an_empty_folder_and_the_one_that_one_is_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    assert run("sessions", tmp_path / "empty").stdout == f"no session in {tmp_path / 'empty'}\n"
    assert json.loads(run("sessions", tmp_path / "empty", "--json").stdout)["sessions"] == []
    monkeypatch.chdir(folder)
    assert run("sessions").stdout == run("sessions", ".").stdout
    assert "alice" in run("sessions").stdout
    assert "would remove" in run("sessions", "prune", "--max-bytes", "0", "--dry-run").stdout


@pytest.mark.parametrize("more", [(), ("prune", "--max-bytes", "1GB")])
@pytest.mark.parametrize(("place", "words"), [("nowhere", "No such file"), ("file", "Not a direc")])
def test_what_is_no_folder(place: str, words: str, more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = spawn("sessions", *more[:1], tmp_path / place, *more[1:], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"thaw: {tmp_path / place}: {words}")
    assert len(done.stderr.splitlines()) == 1


def nbytes(folder: Path, name: str) -> int:
    found = json.loads(run("sessions", folder, "--json").stdout)["sessions"]
    return next(int(each["nbytes"]) for each in found if each["name"] == name)


@pytest.mark.parametrize(
    "form",
    [
        lambda folder, size: ("prune", folder, "--max-bytes", size),
        lambda folder, size: ("prune", "--max-bytes", size, folder),
        lambda folder, size: ("prune", f"--max-bytes={size}", folder),
    ],
)
def test_the_oldest_use_goes_first(form: Callable[..., tuple[Any, ...]], folder: Path) -> None:
    limit, alice = nbytes(folder, "bob"), nbytes(folder, "alice")
    tried = run("sessions", *form(folder, limit), "--dry-run")
    assert tried.stdout.splitlines()[0].startswith("would remove alice, ")
    assert (folder / "alice.thaw").exists()
    asked = json.loads(run("sessions", *form(folder, limit), "--dry-run", "--json").stdout)
    done = run("sessions", *form(folder, limit), "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert asked == found | {"dry_run": True}
    check_shape(found, OUTPUTS["sessions prune"])
    assert [each["name"] for each in found["removed"]] == ["alice"]
    assert (found["left"], found["nbytes"], found["max_nbytes"]) == (1, limit, limit)
    assert found["removed"][0]["nbytes"] == alice
    assert sorted(os.listdir(folder)) == ["bob.thaw", "torn.thaw"]
    again = run("sessions", *form(folder, limit))
    assert again.stdout.startswith("removed 0 sessions, 0 B; 1 session left, ")


@pytest.mark.parametrize(
    ("size", "left"),
    [("1GB", 2), ("1 kB", 0), ("0", 0), ("512 KiB", 2), ("1T", None), ("-1", None), ("much", None)],
)
def test_sizes(size: str, left: int | None, folder: Path) -> None:
    done = run("sessions", "prune", folder, "--max-bytes", size, "-q")
    assert done.stdout == ""
    if left is None:
        assert done.exit_code == 2
        assert "is no size; give one like 100GB" in done.stderr
    else:
        assert done.exit_code == 0
        assert len(os.listdir(folder)) == left + 1


def test_a_limit_has_to_be_said(folder: Path) -> None:
    done = spawn("sessions", "prune", folder, cwd=folder)
    assert done.returncode == 2
    assert "--max-bytes" in done.stderr
    assert "thaw sessions prune --help" in done.stderr
    assert len(os.listdir(folder)) == 3


def test_a_folder_that_is_called_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prune").mkdir()
    freeze(tmp_path / "prune" / "alice.thaw")
    assert "alice" in run("sessions", "./prune").stdout
    assert run("sessions", "prune", "prune", "--max-bytes", "0").exit_code == 0
    assert os.listdir("prune") == []


def test_what_inspect_and_verify_say_of_a_session(folder: Path) -> None:
    for name in ("alice.thaw", "bob.thaw"):
        assert run("verify", folder / name).exit_code == 0
        assert "kv" in run("inspect", folder / name).stdout
        assert json.loads(run("inspect", folder / name, "--json").stdout)["kind"] == "kv"


def test_a_look_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "bob.thaw")
    program = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "from thaw_command import main; main()"
    )
    for arguments in (["sessions"], ["sessions", "prune", "--max-bytes=0"]):
        command = [sys.executable, "-c", program, *arguments, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "now"),
        (0.4, "now"),
        (1, "1 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7199, "119 min ago"),
        (7200, "2 h ago"),
        (2 * DAY - 1, "47 h ago"),
        (2 * DAY, "2 days ago"),
        (4000 * DAY, "4,000 days ago"),
    ],
)
def test_how_long_ago(seconds: float, said: str) -> None:
    assert ago(seconds) == said
