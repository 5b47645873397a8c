"""Make a virtual environment inside the checkout, install thaw into it, and go on in there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 11), (3, 13)


def enter(name: str, requirements: list[list[str]], inputs: list[Path]) -> None:
    """Return if inside the environment `.venv/NAME`, else prepare it and run this script there.

    Args:
        name: the folder below `.venv/`.
        requirements: arguments of `pip install`, relative to the root of the checkout; one run of
            pip after the other.
        inputs: files whose change calls for another installation.
    """
    folder = ROOT / ".venv" / name
    scripts = folder / "bin"
    if Path(sys.prefix).resolve() == folder:
        os.environ["PATH"] = os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)])
        return
    _check_python()
    _prepare(folder, requirements, inputs)
    sys.stdout.flush()
    os.execv(scripts / "python", [str(scripts / "python"), *sys.argv])


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment that this script runs in; from elsewhere cargo alone."""
    if command[0] == "cargo":
        if shutil.which("cargo") is None:
            fail("cargo is missing: the native backend is written in Rust; see https://rustup.rs")
        return subprocess.run(command, check=False, text=True, **options)
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        fail(f"{program} is missing; delete {program.parents[1]} and try again")
    return subprocess.run([program, *command[1:]], check=False, text=True, **options)


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 1."""
    raise SystemExit(f"error: {message}")


def _check_python() -> None:
    found = "{}.{}".format(*sys.version_info)
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        oldest, newest = ("{}.{}".format(*each) for each in (OLDEST, NEWEST))
        fail(f"thaw needs Python {oldest} to {newest}, this is {found} ({sys.executable})")
    for module in ("venv", "ensurepip"):
        if find_spec(module) is None:
            fail(f"Python's module {module} is missing; install python{found}-venv or its like")


def _prepare(folder: Path, requirements: list[list[str]], inputs: list[Path]) -> None:
    stamp = folder / "installed.txt"
    origin = f"{folder} {sys.base_prefix} {sys.version.split()[0]}"
    wanted = [origin, _digest(requirements, inputs)]
    found = stamp.read_text().splitlines() if stamp.exists() else []
    if found == wanted:
        return
    if found[:1] != [origin]:
        print(f"making {folder}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], "cannot make an environment")
    stamp.unlink(missing_ok=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", "--quiet"]
    for each in requirements:
        print(f"installing {' '.join(each)} (PyTorch is large: minutes)", flush=True)
        _run([*pip, *each], "pip could not install thaw; what it printed above says why")
    stamp.write_text("\n".join(wanted) + "\n")


def _digest(requirements: list[list[str]], inputs: list[Path]) -> str:
    digest = hashlib.sha256(repr(requirements).encode())
    for path in sorted(inputs):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], failure: str) -> None:
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
        fail(failure)
