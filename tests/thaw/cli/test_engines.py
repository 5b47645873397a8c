"""`thaw freeze --model`, with a stand-in for vLLM."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import make_dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import thaw
from thaw.cli.app import app
from thaw.cli.output import Output
from thaw.cli.passing import divide
from thaw.cli.shapes import FrozenModelJSON
from thaw.vllm import offline
from thaw.vllm.ranks import EngineReport

NAMES = ("model", "dtype", "max_model_len", "tensor_parallel_size", "trust_remote_code")


class EngineArgs(make_dataclass("EngineArgs", [*NAMES, "use_tqdm_on_load"])):
    """Of vLLM's options those that the tests use."""

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("--model", default="a default")
        parser.add_argument("--dtype", default="auto", choices=["auto", "float32"])
        parser.add_argument("--max_model_len", "--max-model-len", type=int, default=7)
        parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
        parser.add_argument("--trust-remote-code", action="store_true")
        parser.add_argument("--use-tqdm-on-load", action=argparse.BooleanOptionalAction)
        return parser


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(contents)
    return made


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = {"FlexibleArgumentParser": argparse.ArgumentParser}
    for each in (
        module("vllm"),
        module("vllm.engine"),
        module("vllm.engine.arg_utils", EngineArgs=EngineArgs),
        module("vllm.plugins", load_general_plugins=lambda: None),
        module("vllm.utils"),
        module("vllm.utils.argparse_utils", **parser),
    ):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    # So that what the command sets is taken back.
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")


@pytest.fixture
def calls(vllm: None, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def freeze(**options: Any) -> EngineReport:
        found.append(options)
        return EngineReport(
            nbytes=3_000_000_000,
            elapsed_s=1.5,
            path=options["path"],
            ranks=1,
            tensors=12,
            backends=("reference",),
        )

    monkeypatch.setattr(offline, "freeze", freeze)
    return found


def run(arguments: str, folder: Path) -> Result:
    return CliRunner().invoke(app, ["freeze", *arguments.replace("OUT", f"{folder}/x").split()])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--model m -o OUT", {}),
        ("--dtype float32 --model=m -o OUT", {"dtype": "float32"}),
        ("-o OUT --trust-remote-code --model m", {"trust_remote_code": True}),
        ("-o OUT --model m --max_model_len=9", {"max_model_len": 9}),
        ("-o OUT --model m -tp 2", {"tensor_parallel_size": 2}),
        ("--tensor_parallel_size=2 -o OUT --model m", {"tensor_parallel_size": 2}),
        ("-o OUT --model m --stage processed", {"stage": "processed"}),
        ("-o OUT --model m --kind processed", {"stage": "processed"}),
        ("-o OUT --model m --backend reference", {"backend": "reference"}),
        ("-o OUT --model m --allow-unverified", {"allow_unverified": True}),
    ],
)
def test_options_reach_vllm(
    arguments: str, expected: dict[str, Any], calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = run(arguments, tmp_path)
    assert done.exit_code == 0, done.stderr
    always = {"model": "m", "stage": "loaded", "backend": "auto", "path": tmp_path / "x"}
    always |= {"use_tqdm_on_load": False, "allow_unverified": False}
    assert calls == [always | expected]


def test_what_is_ours_and_what_is_passed_on() -> None:
    known = {"--model": True, "-o": True, "-tp": True, "--json": False, "-q": False}
    arguments = (
        "--model m -O3 -cc.mode 3 -o x -tp=2 -pp 2 --json -q --hf-overrides {} --model_impl v"
    )
    ours, passed = divide(arguments.split(), known)
    assert " ".join(ours) == "--model m -o x -tp=2 --json -q"
    assert " ".join(passed) == "-O3 -cc.mode 3 -pp 2 --hf-overrides {} --model_impl v"
    assert divide(["source", "--dtype", "a", "--", "b"], known) == (
        ["source", "--", "b"],
        ["--dtype", "a"],
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("-o OUT", "give either SOURCE or --model"),
        ("source -o OUT --model m", "give either SOURCE or --model"),
        ("source -o OUT --kind loaded", "--kind goes with --model only"),
        ("source -o OUT --stage loaded", "--stage goes with --model only"),
        ("--model m -o OUT --stage raw --kind raw", "either --stage or --kind"),
        ("source -o OUT -tp 2", "--tensor-parallel-size goes with --model only"),
        ("source -o OUT --dtype float32", "--dtype"),
        ("--model m -o OUT --names w", "--names goes with SOURCE only"),
        ("--model m -o OUT --stage raw", "'raw' is not loaded or processed"),
        ("--model m -o OUT --backend warp", "known here: auto"),
        ("--model m -o OUT -tp 0", "-tp"),
        ("--model m", "--output"),
        ("--model m -o OUT --dtyp float32", "vLLM: unrecognized arguments: --dtyp float32"),
        ("--model m -o OUT --dtype float12", "vLLM: argument --dtype: invalid choice: 'float12'"),
        ("--model m -o OUT --trust-remote-code source", "unrecognized arguments: source"),
    ],
)
def test_wrong_usage(
    arguments: str, words: str, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = run(arguments, tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert calls == []


@pytest.mark.parametrize("arguments", ["--model ./nothing -o OUT", "--model m -o OUT/y"])
def test_what_is_not_there_is_found_before_vllm_starts(
    arguments: str, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = run(arguments, tmp_path)
    assert done.exit_code == 1
    missing = "./nothing" if "nothing" in arguments else f"{tmp_path}/x"
    assert done.stderr == f"thaw: {missing}: No such file or directory\n"
    assert calls == []


def test_without_vllm_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    done = run("--model m -o OUT --dtype float32", tmp_path)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "pip install vllm" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run("--model m -o OUT --json", tmp_path)
    assert json.loads(done.stderr)["code"] == "engine-missing"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("no\nroom"), "engine", "vLLM: RuntimeError: no\nroom"),
        (thaw.ThawError("rank 1: gone"), "engine", "vLLM: rank 1: gone"),
        (thaw.MismatchError("packed"), "mismatch", "packed"),
        (FileExistsError("it is there"), "io", "it is there"),
    ],
)
def test_what_goes_wrong_in_vllm_is_an_error(
    error: Exception,
    code: str,
    message: str,
    vllm: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(offline, "freeze", fail)
    done = run("--model m -o OUT --json", tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    found = json.loads(done.stderr)
    assert (found["code"], found["message"]) == (code, message)
    assert len(run("--model m -o OUT", tmp_path).stderr.splitlines()) == 1


def test_json_says_what_was_frozen(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    found = json.loads(run("--model m -o OUT --json", tmp_path).stdout)
    assert found.keys() == FrozenModelJSON.__required_keys__
    assert found.pop("total_s") > 0
    assert found == {
        "model": "m",
        "destination": f"{tmp_path}/x",
        "stage": "loaded",
        "kind": "loaded",
        "files": [f"{tmp_path}/x"],
        "ranks": 1,
        "tensors": 12,
        "nbytes": 3_000_000_000,
        "elapsed_s": 1.5,
        "gbps": 2.0,
        "backends": ["reference"],
    }


def test_ranks_are_counted_and_their_files_listed(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, ranks: Path
) -> None:
    def freeze(**options: Any) -> EngineReport:
        return EngineReport(
            nbytes=32, elapsed_s=1, path=ranks, ranks=2, tensors=2, backends=("native", "native")
        )

    monkeypatch.setattr(offline, "freeze", freeze)
    arguments = ["freeze", "--model", "m", "-tp", "2", "-o", str(ranks)]
    shown = CliRunner().invoke(app, arguments).stdout
    assert f"froze 2 tensors of 2 ranks, 32 B, to {ranks} in " in shown
    assert "backend native)" in shown
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    names = ("rank-00000-of-00002.thaw", "rank-00001-of-00002.thaw", "snapshot.json")
    assert found["files"] == [str(ranks / name) for name in names]


def test_what_vllm_prints_goes_to_standard_error(
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    quiet = offline.freeze

    def freeze(**options: Any) -> EngineReport:
        print("from Python")
        os.write(1, b"from a library\n")
        subprocess.run([sys.executable, "-c", "print('from a worker')"], check=True)
        return quiet(**options)

    monkeypatch.setattr(offline, "freeze", freeze)
    done = run("--model m -o OUT", tmp_path)
    assert done.stdout.startswith("✓ froze 12 tensors, 3.0 GB, to ")
    assert len(done.stdout.splitlines()) == 1
    assert "from Python" in done.stderr
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err == "from a library\nfrom a worker\n"


def test_who_watches_is_told_what_vllm_does(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Output, "shows_progress", True)
    done = run("--model m -o OUT", tmp_path)
    assert done.stderr == f"thaw: vLLM loads m, to be frozen to {tmp_path}/x\n"
    assert calls[0]["use_tqdm_on_load"] is True
    run("--model m -o OUT --no-use-tqdm-on-load", tmp_path)
    assert calls[1]["use_tqdm_on_load"] is False


@pytest.mark.parametrize(("level", "expected"), [(None, "WARNING"), ("DEBUG", "DEBUG")])
def test_quiet_says_nothing_and_has_vllm_say_less(
    level: str | None,
    expected: str,
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if level is None:
        monkeypatch.delenv("VLLM_LOGGING_LEVEL")
    else:
        monkeypatch.setenv("VLLM_LOGGING_LEVEL", level)
    done = run("--model m -o OUT --quiet", tmp_path)
    assert (done.exit_code, done.output) == (0, "")
    assert os.environ["VLLM_LOGGING_LEVEL"] == expected
    assert len(calls) == 1


def test_a_checkpoint_is_frozen_without_vllm(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("raise SystemExit('vllm was imported')")
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "thaw", "freeze", "model.safetensors", "-o", "model.thaw"]
    subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True
    )
    assert (tmp_path / "model.thaw").exists()
