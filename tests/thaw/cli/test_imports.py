"""What the command imports before it is known that it is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.cli.commands import COMMANDS

PROGRAM = """
import atexit, json, sys
said = sys.argv.pop(1)
atexit.register(lambda: json.dump(sorted(sys.modules), open(said, "w")))
from thaw_command import main
main()
"""
HEAVY = ("torch", "rich", "markdown_it", "pygments", "asyncio", "thaw.plugins.host")
LINES = [["--help"], *([each.__name__, "--help"] for each in COMMANDS), ["--nonsense"]]


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


def test_what_is_imported_is_seen(tmp_path: Path) -> None:
    assert {"torch", "thaw.plugins.host"} <= imported(tmp_path, "backends")
