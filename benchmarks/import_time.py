"""Measure how long thaw takes before it does anything: imports, help, a look at a small file.

    git worktree add ../before COMMIT
    pip install --no-deps --target BEFORE ../before ../before/backends/{cupy,gds,native}
    python benchmarks/import_time.py [--before BEFORE] [--repeat N] [--out FILE]

Each sample is a fresh process, timed from outside, Python's own start included; where torch is
there already, the process tells the seconds itself. All cases take turns, those of a tree of before
among them, and medians are compared with the aims.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from results import FOLDER, Figure, Row, at_most, write_results

Samples: TypeAlias = Mapping[str, list[float]]
RESULTS = FOLDER / "import_time.json"
_WITHIN = "import time, torch; began = time.perf_counter()\n{}\nprint(time.perf_counter() - began)"


@dataclass(frozen=True, slots=True)
class Case:
    """What a process does.

    Attributes:
        tells: the process prints the seconds, which else are those of all of it.
        aim_s: at most so long, where there is an aim.
    """

    name: str
    arguments: Sequence[str]
    tells: bool = False
    aim_s: float | None = None


def cases(snapshot: Path) -> Iterator[Case]:
    """Say what is measured."""
    yield Case("python -c pass", ("-c", "pass"))
    yield Case("import torch", ("-c", "import torch"))
    yield Case("import thaw", ("-c", "import thaw"), aim_s=0.3)
    yield Case("thaw --help", ("-m", "thaw", "--help"), aim_s=0.3)
    yield Case("thaw freeze --help", ("-m", "thaw", "freeze", "--help"), aim_s=0.3)
    yield Case("thaw inspect FILE", ("-m", "thaw", "inspect", str(snapshot)))
    yield Case("thaw verify FILE", ("-m", "thaw", "verify", str(snapshot)))
    yield _within("import thaw", aim_s=0.03)
    yield _within("import thaw; thaw.backends()", aim_s=0.03)


def _within(code: str, aim_s: float) -> Case:
    return Case(f"{code}, torch imported before", ("-c", _WITHIN.format(code)), True, aim_s)


def measure(case: Case, tree: Path | None) -> float:
    """Run a case once, by the installed tree or another, and return its seconds."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(tree)} if tree else {})
    # What is installed is compiled once, and not at each start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *case.arguments]
    began = time.perf_counter()
    # Not in a folder with sources of thaw, which would come before what is installed.
    done = subprocess.run(
        command, env=environment, cwd=tempfile.gettempdir(), stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout) if case.tells else time.perf_counter() - began


def sample(chosen: Sequence[Case], trees: Mapping[str, Path | None], repeat: int) -> list[Samples]:
    """Measure every case by every tree, in turn; the first time is not counted."""
    found: list[Samples] = [{side: [] for side in trees} for _ in chosen]
    for number in range(repeat + 1):
        for case, samples in zip(chosen, found, strict=True):
            for side, tree in trees.items():
                elapsed_s = measure(case, tree)
                if number:
                    samples[side].append(elapsed_s)
    return found


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Compare the medians with the aims."""
    aims = {case.name: case.aim_s for case in cases(Path())}
    return [
        at_most(row["case"], aim_s, "s", round(median(row["samples_s"]["after"]), 4))
        for row in rows
        if (aim_s := aims[row["case"]]) is not None
    ]


def main() -> None:
    """Measure, print and write."""
    import torch

    import thaw
    from gauges import describe_machine

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--before-commit", default="unknown")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    trees = {"before": args.before.resolve(), "after": None} if args.before else {"after": None}
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder, "small.thaw")
        thaw.freeze({"w": torch.ones(1000)}, snapshot)
        chosen = list(cases(snapshot))
        found = sample(chosen, trees, args.repeat)
    rows: list[Row] = []
    for case, samples in zip(chosen, found, strict=True):
        rows.append({"case": case.name, "samples_s": samples})
        print(case.name, *(f"{side} {median(each):.3f} s" for side, each in samples.items()))
    settings = {"before": args.before_commit, "repeat": args.repeat}
    machine = describe_machine(torch.device("cpu"))
    write_results(args.out, machine, rows, figures(rows), settings=settings)


if __name__ == "__main__":
    main()
