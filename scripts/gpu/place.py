"""A GPU machine without a network: bring there for one run what thaw needs, and describe it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = [ROOT, ROOT / "backends" / "cupy", ROOT / "backends" / "gds"]
NATIVE = "thaw_snapshot_native"
WRAP_UP_S = 15

say = partial(print, flush=True)  # in step with what children print


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is: the folder of installed wheels, and the environment of children."""

    site: Path
    peers: Path
    output: Path

    @property
    def environment(self) -> dict[str, str]:
        path = [ROOT, ROOT / "formats", *OURS[1:], self.site, Path(__file__).parent]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            # What else the machine has installed must not take part.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environment,
            text=True,
            check=False,
            **options,
        )


@contextmanager
def prepared(
    output: Path, wheels: Path | None, bundle: Path | None = None
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Install for as long as the block runs; give the place and a description of the machine.

    Args:
        wheels: a folder.
        bundle: a tar archive of what lies in a folder of installed packages.
    """
    with tempfile.TemporaryDirectory(prefix="thaw-gpu-") as folder:
        place = Place(Path(folder, "site"), Path(folder, "peers"), output.resolve())
        place.output.mkdir(parents=True, exist_ok=True)
        prepare(place, wheels, bundle)
        machine = describe_machine(place, wheels)
        say(json.dumps(machine, indent=1))
        yield place, machine


def prepare(place: Place, wheels: Path | None, bundle: Path | None) -> None:
    """Unpack wheels, and make the entry points of the checkout visible."""
    place.site.mkdir(parents=True)
    if bundle:
        with tarfile.open(bundle) as archive:
            archive.extractall(place.site, filter="data")
    chosen, apart = choose_wheels(wheels)
    install(place, place.site, chosen)
    install(place, place.peers / "thaw-vllm", apart)
    for folder in OURS:
        write_metadata(folder, place.site)


def install(place: Place, target: Path, wheels: Sequence[Path]) -> None:
    """Unpack wheels; one that does not fit this machine takes no other along."""
    command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--upgrade", "--target", str(target)]
    if not wheels or not place.run(*command, *wheels, capture_output=True).returncode:
        return
    for wheel in wheels:
        done = place.run(*command, wheel, capture_output=True)
        if done.returncode:
            say(f"left out: {wheel.name} ({done.stderr.strip()})")


def choose_wheels(wheels: Path | None) -> tuple[list[Path], list[Path]]:
    """Part the wheels to install from those of others that install packages with our names."""
    chosen, apart = [], []
    for path in sorted(wheels.resolve().glob("*.whl")) if wheels else []:
        distribution = path.name.split("-")[0]
        ours = distribution == "thaw_snapshot" or distribution.startswith("thaw_snapshot_")
        if ours and distribution != NATIVE:
            say(f"left out: {path.name} (the checkout is what is tested)")
        elif not ours and any(name.split("_")[0] == "thaw" for name in packages(path)):
            apart.append(path)
        else:
            chosen.append(path)
    return chosen, apart


def packages(wheel: Path) -> set[str]:
    """Name what a wheel installs at the top."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    return {name for name in names if not name.endswith((".dist-info", ".data"))}


def write_metadata(folder: Path, site: Path) -> None:
    """Write what tells Python of a distribution that runs from the checkout."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, points in project.get("entry-points", {}).items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


VERSIONS = """
import json, torch
from importlib.metadata import PackageNotFoundError, version
found = {"torch": torch.__version__, "cuda": torch.version.cuda}
for name in ("cupy-cuda13x", "cupy-cuda12x", "kvikio-cu13", "kvikio-cu12", "pytest", "hypothesis",
             "thaw-snapshot-native"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def describe_machine(place: Place, wheels: Path | None) -> dict[str, Any]:
    """Say on what, of what and when this was run."""
    gpus = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    names = [line.rsplit(", ", 1) for line in gpus.splitlines()]
    versions = place.run("-c", VERSIONS, capture_output=True).stdout.strip()
    return {
        "gpu": ", ".join(name for name, *_ in names) or "none",
        "driver": names[0][-1] if names else "none",
        "processor": f"{len(os.sched_getaffinity(0))} x {platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": json.loads(versions or "{}"),
        "commit": _commit(wheels),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(wheels: Path | None) -> str:
    # Where wheels were brought from elsewhere, so was the checkout, and git may not know it.
    file = wheels / "commit" if wheels else None
    if file and file.exists():
        return file.read_text().strip()
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain")
    return f"{commit} with changes" if commit and changed else commit or "unknown"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_until(
    command: Sequence[str],
    place: Place,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a program; when time is over ask it to end, so that it removes its files."""
    variables = place.environment | dict(environment or {})
    with subprocess.Popen(command, cwd=ROOT, env=variables) as child:
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            say("the time to measure is over")
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(WRAP_UP_S)
        except subprocess.TimeoutExpired:
            child.kill()
    return 1
