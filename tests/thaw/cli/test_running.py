"""`thaw run`, with a stand-in for the launcher."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner, Result

import thaw
from thaw.cli import needs
from thaw.cli.app import app
from thaw.engines import client
from thaw.engines.launcher import Program

RUN = ("run", "--model", "m", "--snapshot", "x.thaw")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


class EndedError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def started(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Have a launcher whose children are killed at once."""
    found: list[Program] = []

    def run(program: Program) -> int:
        found.append(program)
        return signal.SIGKILL

    def end_like(status: int) -> NoReturn:
        raise EndedError(status)

    monkeypatch.setattr(client, "run", run)
    monkeypatch.setattr(client, "end_like", end_like)
    return found


def test_what_the_server_is_given(started: list[Program], here: Path) -> None:
    done = invoke(*RUN, "--backend", "native", "--", "--port=1", "--model-impl", "vllm")
    assert isinstance(done.exception, EndedError)
    assert done.exception.args == (signal.SIGKILL,)
    (program,) = started
    assert program.entry == "thaw.engines.server:main"
    extra = json.loads(program.argv[6])
    assert extra == {"snapshot": str(here / "x.thaw"), "backend": "native"}
    assert list(program.argv[7:]) == ["--port=1", "--model-impl", "vllm"]


@pytest.mark.parametrize(
    "option",
    [
        "--model=x",
        "--load-format",
        "--load_format=auto",
        "--load-form",
        "--model_loader_extra_config",
        "--model-loader-extra-config.verify",
        "--model-loader",
    ],
)
def test_options_that_would_take_the_place_of_ours_are_refused(
    option: str, started: list[Program]
) -> None:
    done = invoke(*RUN, "--", "--port", "1", option, "x")
    assert (done.exit_code, done.stdout, started) == (2, "", [])
    assert done.stderr.startswith(f"thaw: {option.partition('=')[0]} is decided by `thaw run`")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("launcher",), "give start, stop or status (see `thaw launcher --help`)"),
        (("launcher", "begin"), "begin"),
        (("launcher", "start", "now"), "now"),
        (("run", "--snapshot", "x.thaw"), "--model"),
        (("run", "--model", "m"), "--snapshot"),
        ((*RUN, "--port", "8000"), "--port"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str, started: list[Program]) -> None:
    done = CliRunner().invoke(app, arguments, prog_name="thaw")
    assert (done.exit_code, done.stdout, started) == (2, "", [])
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "snapshot", "missing"), [("m", "y.thaw", "y.thaw"), ("./m", "x.thaw", "./m")]
)
def test_what_is_not_there_is_told_before_anything_starts(
    model: str, snapshot: str, missing: str, started: list[Program]
) -> None:
    done = invoke("run", "--model", model, "--snapshot", snapshot)
    assert (done.exit_code, started) == (1, [])
    assert done.stderr == f"thaw: {missing}: No such file or directory\n"


def test_without_vllm_it_says_what_to_install(
    started: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    for arguments in (RUN, ("launcher", "start")):
        done = invoke(*arguments)
        assert (done.exit_code, done.stdout, started) == (3, "", [])
        assert "pip install vllm" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (client.NoLauncherError("the launcher is not used:\nx"), "the launcher is not used: x"),
        (thaw.ThawError("the folder is open"), "the folder is open"),
        (FileNotFoundError(2, "No such file", "/run/9"), "[Errno 2] No such file: '/run/9'"),
    ],
)
def test_why_it_is_started_plainly_is_one_line(
    error: Exception, why: str, started: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(program: Program) -> NoReturn:
        raise error

    def execute(path: str, argv: list[str]) -> NoReturn:
        raise EndedError(path, argv)

    monkeypatch.setattr(client, "run", refuse)
    monkeypatch.setattr(os, "execv", execute)
    done = invoke(*RUN, "--", "--port", "1")
    assert isinstance(done.exception, EndedError)
    path, argv = done.exception.args
    assert path == argv[0] == sys.executable
    assert argv[1:5] == ["-P", "-m", "thaw.engines.server", "--model"]
    assert argv[-2:] == ["--port", "1"]
    assert done.stderr == f"thaw: {why}: vLLM is started plainly\n"


def test_a_status_that_is_lost_is_an_error(
    started: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(program: Program) -> NoReturn:
        raise client.StatusLostError("nobody can say")

    monkeypatch.setattr(client, "run", lose)
    done = invoke(*RUN)
    assert (done.exit_code, done.stderr) == (1, "thaw: nobody can say\n")
