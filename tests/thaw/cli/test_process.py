"""How a process ends: exit codes, pipes, terminals and signals."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import thaw
from thaw.cli.app import app
from thaw.cli.errors import INTERRUPTION, report

THAW = [sys.executable, "-m", "thaw"]


def test_interruption_is_one_line_and_130(model: Path) -> None:
    program = (
        "import os, signal, sys, time, thaw, thaw.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's job may ignore it
        "def wait(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"  # another thread may be the one to receive it
        "thaw.verify = wait\n"
        "thaw.cli.main()\n"
    )
    command = [sys.executable, "-c", program, "verify", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "thaw: interrupted\n")


IMPORTING = """
import os, signal, sys, time
from importlib.abc import MetaPathFinder
from importlib.metadata import entry_points

signal.signal(signal.SIGINT, signal.{before})
stage = sys.argv.pop(1)

class Interrupted(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == stage:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            return None

sys.meta_path.insert(0, Interrupted())
(command,) = entry_points(group="console_scripts", name="thaw")
command.load()()
"""


def interrupted(
    stage: str, *arguments: str, before: str = "default_int_handler"
) -> tuple[int, str]:
    """Run the command as it is installed; a signal comes when it imports a module."""
    program = IMPORTING.replace("{before}", before)
    command = [sys.executable, "-c", program, stage, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("stage", ["thaw", "typer", "thaw.cli", "thaw.cli.app"])
def test_interruption_of_imports_is_one_line_and_130(stage: str) -> None:
    assert interrupted(stage, "--help") == (130, "thaw: interrupted\n")


@pytest.mark.parametrize("stage", ["thaw_format", "torch", "thaw.plugins.host"])
def test_interruption_of_what_a_command_imports_is_one_line_and_130(
    stage: str, tmp_path: Path
) -> None:
    assert interrupted(stage, "backends") == (130, "thaw: interrupted\n")


def test_interruption_of_imports_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = interrupted("thaw.cli", "verify", "--json", str(model))
    report(INTERRUPTION, as_json=True)
    assert (status, said) == (130, capsys.readouterr().err)


def test_imports_that_ignore_interruption_go_on() -> None:
    assert interrupted("typer", "--help", before="SIG_IGN") == (0, "")


def test_interruption_as_json(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(thaw, "verify", interrupt)
    done = CliRunner().invoke(app, ["verify", str(model), "--json"])
    assert done.exit_code == 130
    assert json.loads(done.stderr)["code"] == "interrupted"


def test_a_closed_pipe_ends_quietly(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [*THAW, "inspect", model], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_device_is_an_error(model: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*THAW, "inspect", model], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"thaw: No space left on device\n")


def test_no_standard_output_at_all() -> None:
    command = f"{sys.executable} -m thaw version >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_progress_goes_to_the_terminal_and_data_to_the_pipe(model: Path) -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    with os.fdopen(parent, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [*THAW, "verify", model],
            stdout=subprocess.PIPE,
            stderr=child,
            env=environment,
            check=True,
        )
        os.close(child)
        seen = terminal.read(1 << 16)
    assert b"verifying" in seen
    assert done.stdout.startswith("✓".encode())
    assert b"\x1b" not in done.stdout


def test_an_error_of_the_program_itself_is_not_hidden(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(thaw, "verify", fail)
    done = CliRunner().invoke(app, ["verify", str(model)])
    assert isinstance(done.exception, ZeroDivisionError)


def test_no_command_shows_the_help_and_is_2() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "Usage" in done.output


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("thaw ver", ["verify", "version"]),
        ("thaw restore --backend re", ["reference"]),
        ("thaw convert --format s", ["safetensors"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    environment = {
        "_THAW_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = CliRunner().invoke(app, [], prog_name="thaw", env=environment)
    assert done.stdout.split() == offered


@pytest.mark.parametrize("arguments", [["--help"], ["freeze", "--help"]])
def test_a_closed_pipe_ends_help_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [*THAW, *arguments], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--backend", "none"], 2)])
def test_an_error_that_cannot_be_said_keeps_its_code(
    model: Path, arguments: list[str], status: int
) -> None:
    command = [*THAW, "diff", model, *([model] if arguments else []), *arguments]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=full, check=False, env=environment
        )
    assert done.returncode == status


@pytest.mark.parametrize("command", ["convert", "freeze"])
def test_a_pipe_is_not_replaced(tmp_path: Path, model: Path, command: str) -> None:
    thaw.convert(model, tmp_path / "a.safetensors")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [str(tmp_path / "a.safetensors")]
    arguments += [str(pipe), "--format", "thaw"] if command == "convert" else ["-o", str(pipe)]
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code == 1
    assert done.stderr == f"thaw: {pipe}: exists and is no regular file\n"
    assert pipe.is_fifo()


def test_what_no_memory_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.thaw"
    thaw.freeze({"x": torch.ones(1, dtype=torch.uint8).expand(1 << 46)}, path)
    for command in (["diff", path, path], ["restore", path, "--to", tmp_path / "a.safetensors"]):
        done = CliRunner().invoke(app, [*map(str, command), "--json"])
        assert (done.exit_code, json.loads(done.stderr)["code"]) == (1, "limit")
