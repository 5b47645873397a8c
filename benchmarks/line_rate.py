"""Measure how fast tensors move between files and a device, beside other loaders, in one run.

    python benchmarks/line_rate.py [--only GLOB] [--skip GLOB]   measures; writes JSON
    python benchmarks/make_pages.py                              makes the pages from it

Each case runs in a fresh process, which starts the device and imports what it needs before the
clock starts. What a case moved is compared with what the seed gives, outside the clock. Results
are written after every case. `--device cpu --nbytes 8000000` tries everything in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from statistics import median

from cases import CHECKPOINT, LLAMA, Case, Settings, catalogue
from gauges import boot_id, describe_machine
from line_rate_results import LineRate
from llama import FULL_NBYTES
from measures import run_child
from peers import PEERS
from results import Row, write_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "line_rate.json"
_FOLDER = "thaw-line-rate"
_KEPT = (LLAMA, CHECKPOINT)


class Results:
    """The rows so far, in a file that is whole at every moment."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        command: Sequence[str],
        *,
        append: bool,
        commit: str | None = None,
    ) -> None:
        self._path = path
        same = {key: getattr(settings, key) for key in ("device", "nbytes", "count")}
        self.raw = json.loads(path.read_text()) if append else {"runs": [], "rows": []}
        if self.raw.setdefault("settings", same) != same:
            raise SystemExit(f"{path} was measured with other settings")
        self._machine = describe_machine(settings.where(), commit)
        run = {
            "machine": self._machine,
            "boot": boot_id(),
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings.sizes(),
            "command": list(command),
        }
        self.raw["runs"].append(run)

    def add(self, case: Case, found: Sequence[Row], reason: str | None) -> None:
        """Replace what is known of a case, and write the file anew; ceilings are of their run."""
        rows = self.raw["rows"]
        if case.action != "ceilings":
            rows = [each for each in rows if each["case"] != case.name]
        more = [*_merged(found), *([{"case": case.name, "reason": reason}] if reason else [])]
        run = len(self.raw["runs"]) - 1
        self.raw["rows"] = [*rows, *(row | {"run": run} for row in more)]
        kept = {key: self.raw[key] for key in ("settings", "runs")}
        figures = LineRate(self.raw).figures()
        write_results(self._path, self._machine, self.raw["rows"], figures, **kept)


def _merged(found: Sequence[Row]) -> list[Row]:
    """Join the samples that several processes took of the same thing."""
    rows: dict[str, Row] = {}
    for row in found:
        if "samples_s" in row and (before := rows.get(row["what"])):
            row = before | {
                "samples_s": before["samples_s"] + row["samples_s"],
                "identical": before["identical"] and row["identical"],
            }
        rows[row["what"]] = row
    return list(rows.values())


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs cases one after another, makes the files they need and removes them after the last."""

    settings: Settings
    results: Results
    keep: bool
    timeout_s: float

    def run(self, cases: Sequence[Case], budget_s: float) -> None:
        began, absent, none = time.monotonic(), dict[str, str](), list[Row]()
        for index, case in enumerate(cases):
            spent_s = time.monotonic() - began
            if spent_s > budget_s:
                found, reason = none, f"not run: the {budget_s:.0f} s of the run were spent"
            elif case.subject in absent:
                found, reason = none, absent[case.subject]
            else:
                found, reason = self._case(case)
            if _says_absent(case, reason):
                absent[case.subject] = reason
            self.results.add(case, found, reason)
            self._sweep(case, cases[index + 1 :])
            for row in _merged(found):
                if "samples_s" in row:
                    print(line(row), flush=True)
            print(f"{case.name:42} {time.monotonic() - began:6.0f} s  {reason or ''}", flush=True)

    def _case(self, case: Case) -> tuple[list[Row], str]:
        path = self.settings.path(case.file, case.place)
        if case.reads and not path.exists():
            _, reason = self._child(case, "--make")
            if reason:
                return [], f"{case.file} could not be made: {reason}"
        found: list[Row] = []
        for _ in range(case.processes):
            rows, reason = self._child(case)
            found += rows
            if reason:
                return found, reason
        return found, ""

    def _child(self, case: Case, *options: str) -> tuple[list[Row], str]:
        """Run a fresh process; return its rows and, if it failed, why."""
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder, "rows")
            command = [sys.executable, __file__, "--child", case.name, "--rows", str(rows)]
            command += ["--settings", json.dumps(self.settings.json()), *options]
            environment = os.environ | case.environment
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    env=environment,
                    timeout=self.timeout_s,
                )
                reason = _reason(done.returncode, done.stderr)
            except subprocess.TimeoutExpired:
                reason = f"stopped after {self.timeout_s:.0f} s"
            lines = rows.read_text().splitlines() if rows.exists() else []
            return [json.loads(text) for text in lines], reason

    def _sweep(self, case: Case, later: Sequence[Case]) -> None:
        """Remove the files that this case used or left and that no later case reads."""
        path = self.settings.path(case.file, case.place)
        # At most one file that is not kept, so that tmpfs and the disk need not be large.
        readers = [each for each in (later if case.file in _KEPT else later[:1]) if each.reads]
        needed = {self.settings.path(each.file, each.place) for each in readers}
        if path not in needed and not (self.keep and case.file in _KEPT):
            remove(path)
        for part in path.parent.glob("part-*"):
            remove(part)


def _reason(code: int, stderr: str) -> str:
    if code == 0:
        return ""
    lines = [text.strip() for text in stderr.splitlines() if text.strip()]
    last = lines[-1][:300] if lines else "no message"
    return last if code > 0 else f"died of signal {-code}: {last}"


def _says_absent(case: Case, reason: str) -> bool:
    """Say whether a reason holds for every case of a backend or peer, so that none need start."""
    error = reason.split(":", maxsplit=1)[0]
    if case.subject in PEERS:
        return error.endswith(("ModuleNotFoundError", "ImportError"))
    return error.endswith("BackendError") and f"backend {case.subject!r}" in reason


def line(row: Row) -> str:
    """Say a row in one line."""
    middle = median(row["samples_s"])
    rate = row["nbytes"] / middle / 1e9
    mark = {True: "identical", False: "NOT IDENTICAL", None: ""}[row["identical"]]
    return f"  {row['what']:6} {middle:8.3f} s {rate:7.2f} GB/s  {row['route']:16} {mark}"


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def select(cases: Sequence[Case], only: Sequence[str], skip: Sequence[str]) -> list[Case]:
    """Choose cases by shell-style patterns of their names."""

    def any_of(case: Case, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(case.name, pattern) for pattern in patterns)

    return [case for case in cases if any_of(case, only or ["*"]) and not any_of(case, skip)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", default=[], metavar="GLOB")
    parser.add_argument("--skip", action="append", default=[], metavar="GLOB")
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--timeout-s", type=float, default=180, help="of one process")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--nbytes", type=int, default=FULL_NBYTES)
    parser.add_argument("--count", type=int, default=20_000, help="of the many small tensors")
    parser.add_argument("--again", type=int, default=4)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="holds a folder for each peer installed apart")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="which this is, where git cannot tell")
    parser.add_argument(
        "--append",
        action="store_true",
        help="to the results that are there, of this machine or another",
    )
    parser.add_argument("--keep", action="store_true", help="the files, for the next command")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    for internal in ("--child", "--rows", "--settings"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.child:
        settings = Settings(**json.loads(options.settings))
        run_child(options.child, Path(options.rows), settings, only_make=options.make)
        return 0
    folders = [each.resolve() / _FOLDER for each in (options.tmpfs, options.disk)]
    settings = Settings(
        tmpfs=str(folders[0]),
        disk=str(folders[1]),
        device=options.device,
        nbytes=options.nbytes,
        count=options.count,
        again=options.again,
        processes=options.processes,
        peers=str(options.peers.resolve()) if options.peers else None,
    )
    cases = select(list(catalogue(settings).values()), options.only, options.skip)
    if options.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    return measure(cases, settings, folders, options)


def said(options: argparse.Namespace) -> list[str]:
    """Repeat the options that decide what a run measures; folders are the machine's affair."""
    words = [f"--{key} '{glob}'" for key in ("only", "skip") for glob in getattr(options, key)]
    return words + ([f"--budget-s {options.budget_s:.0f}"] if isfinite(options.budget_s) else [])


def measure(
    cases: Sequence[Case], settings: Settings, folders: Sequence[Path], options: argparse.Namespace
) -> int:
    # So that a run that is stopped from outside removes its files too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(
        options.out, settings, said(options), append=options.append, commit=options.commit
    )
    try:
        for folder in folders:
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        Runner(settings, results, options.keep, options.timeout_s).run(cases, options.budget_s)
    finally:
        if not options.keep:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(row.get("identical") is not False for row in results.raw["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
