"""What the command imports before it is known that it is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from thaw_format import DTYPES

import thaw
from thaw.cli.commands import BELOW, COMMANDS

PROGRAM = """
import atexit, json, sys
said = sys.argv.pop(1)
atexit.register(lambda: json.dump(sorted(sys.modules), open(said, "w")))
from thaw_command import main
main()
"""
HEAVY = ("torch", "rich", "markdown_it", "pygments", "asyncio", "thaw.plugins.host")
LINES = [["--help"], *([each.__name__, "--help"] for each in COMMANDS), ["--nonsense"]]
LINES += [
    [first, second, option]
    for first, seconds in BELOW.items()
    for second in seconds
    for option in ("--help", "--nonsense")
]


def imported(tmp_path: Path, *arguments: str, status: int = 0) -> set[str]:
    said = tmp_path / "modules.json"
    command = [sys.executable, "-c", PROGRAM, str(said), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return set(json.loads(said.read_text()))


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_help_and_wrong_usage_import_little(arguments: list[str], tmp_path: Path) -> None:
    found = imported(tmp_path, *arguments, status=2 if "--nonsense" in arguments else 0)
    assert found.isdisjoint(HEAVY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a snapshot of every dtype, one of two ranks, a checkpoint of two files, and damage."""
    folder = tmp_path_factory.mktemp("files")
    numbers = torch.arange(256, dtype=torch.uint8)
    every = {name: numbers.view(dtype) for name, dtype in DTYPES.items() if name != "bool"}
    every |= {"turned": torch.ones(3, 4).T, "tied": every["float32"], "bool": torch.ones(3) > 0}
    thaw.freeze(every, folder / "every.thaw")
    for rank in range(2):
        shard = thaw.Shard(rank, 2)
        thaw.freeze({"w": numbers}, folder / "ranks.thaw", shard=shard, snapshot_id="ab" * 16)
    thaw.finish_ranks(folder / "ranks.thaw")
    (folder / "checkpoint").mkdir()
    for number in (1, 2):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({f"w{number}": torch.ones(3)}, folder / "checkpoint" / name)
    save_file({"w": torch.ones(3).to(torch.float8_e4m3fn)}, folder / "one.safetensors")
    damaged = bytearray((folder / "every.thaw").read_bytes())
    damaged[-1] ^= 1
    (folder / "damaged.thaw").write_bytes(damaged)
    return folder


PATHS = ["every.thaw", "ranks.thaw", "checkpoint", "one.safetensors"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "arguments", [["inspect"], ["inspect", "--json"], ["inspect", "--tensors"], ["verify"]]
)
def test_a_look_at_a_snapshot_needs_no_torch(
    path: str, arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    found = imported(tmp_path, *arguments, str(folder / path))
    assert found.isdisjoint({"torch", "thaw.plugins.host"})


def test_damage_is_found_without_torch(folder: Path, tmp_path: Path) -> None:
    found = imported(tmp_path, "verify", str(folder / "damaged.thaw"), status=1)
    assert "torch" not in found


def test_the_version_is_told_without_torch(tmp_path: Path) -> None:
    assert "torch" not in imported(tmp_path, "version")


def test_what_starts_engines_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    run = ("run", "--model", "m", "--snapshot", str(tmp_path / "nothing"))
    found = imported(tmp_path, *run, status=1)
    assert "thaw.engines.client" in found
    assert found.isdisjoint({*HEAVY, "vllm"})
    found = imported(tmp_path, "launcher", "status", status=1)
    assert "thaw.engines.client" in found
    assert found.isdisjoint({"torch", "vllm", "thaw.plugins.host"})


def test_what_is_imported_is_seen(tmp_path: Path) -> None:
    assert {"torch", "thaw.plugins.host"} <= imported(tmp_path, "backends")
