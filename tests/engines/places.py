"""Where a launcher that imports little runs, and processes that ask it for children."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_ASKING = """
import sys
from thaw.engines import client
from thaw.engines.launcher import Program
try:
    status = client.run(Program("programs:" + sys.argv[1], sys.argv[2:]))
except (client.NoLauncherError, client.StatusLostError) as error:
    print("none:", error, file=sys.stderr)
    sys.exit(77)
client.end_like(status)
"""
_PLAIN = """
import sys, programs
name, *sys.argv = sys.argv[1:]
sys.exit(getattr(programs, name)())
"""


def line(process: subprocess.Popen[str]) -> str:
    """Read the next line that a process prints, which it does soon or never."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 30)
    assert ready, "nothing was printed"
    return process.stdout.readline()


@dataclass
class Place:
    """A runtime folder of its own, and who lives there."""

    folder: Path
    launcher: subprocess.Popen[bytes] | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = os.pathsep.join([str(FOLDER), *filter(None, known)])
        return {**os.environ, "PYTHONPATH": paths, "XDG_RUNTIME_DIR": str(self.folder)}

    def launch(self, modules: Sequence[str] = ("programs",), **options: Any) -> None:
        """Start a launcher, and wait until it has said what became of it."""
        reading, writing = os.pipe()
        command = [sys.executable, "-P", "-m", "thaw.engines.launcher", "--ready", str(writing)]
        command += ["--log", str(self.folder / "log"), "--modules", *modules]
        options = {"env": self.environment, "cwd": "/"} | options
        self.launcher = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[writing], start_new_session=True, **options
        )
        os.close(writing)
        with os.fdopen(reading) as pipe:
            line = pipe.readline()
        self.said = json.loads(line) if line else {}

    def command(self, name: str, *argv: str, plain: bool = False) -> list[str]:
        """Make the command of a process that runs a program by itself, or by a launcher."""
        return [sys.executable, "-P", "-c", _PLAIN if plain else _ASKING, name, *argv]

    def run(
        self, name: str, *argv: str, plain: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        options = {"env": self.environment, "timeout": 60, "input": ""} | options
        command = self.command(name, *argv, plain=plain)
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    def start(self, name: str, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process whose output is read line by line."""
        plain = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        options = {"env": self.environment, "text": True, **plain} | options
        return subprocess.Popen(self.command(name, *argv), **options)

    def close(self) -> None:
        if self.launcher is not None:
            self.launcher.kill()
            self.launcher.wait()
