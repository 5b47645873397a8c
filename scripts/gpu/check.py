"""Test every backend on this machine's GPU and measure it, with no network and nothing installed.

    python scripts/gpu/check.py --wheels DIR --output DIR

DIR holds wheels of what the machine lacks and of the native backend. All of them are unpacked into
a folder that is removed at the end; the other distributions of this repository run from the
checkout. Writes parity.json (results by backend and device) and line_rate.json.
`--tests PATH` and `--select EXPRESSION` try the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from place import ROOT, WRAP_UP_S, Place, prepared, run_until, say
from result_log import read_log

sys.path.insert(0, str(ROOT / "benchmarks"))

from results import Figure, at_most, write_results

TESTS = ["tests/parity", "tests/backends", "tests/thaw/test_reference.py", "tests/thaw/cuda"]
_MAX_STARTS = 8
_BENCH_START_S = 30


@dataclass(slots=True)
class Tally:
    """What became of the tests of one backend on one device."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, test: str, outcome: str, why: str) -> None:
        if outcome == "passed":
            self.passed += 1
        elif outcome == "skipped":
            self.skipped += 1
            self.reasons[why] = self.reasons.get(why, 0) + 1
        else:
            self.failed += 1
            self.failures.append({"test": test, "why": why})


def main() -> int:
    options = parse()
    deadline = time.monotonic() + options.limit_s
    with prepared(options.output, options.wheels) as (place, machine):
        place.run("-m", "thaw", "backends")
        statuses = []
        if not options.bench_only:
            statuses.append(check(place, options, machine, deadline))
        if not options.tests_only:
            statuses.append(measure(place, machine["commit"], deadline))
    return 1 if any(statuses) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--wheels", type=Path, help="holds wheels, and `commit` where git knows none"
    )
    parser.add_argument("--output", type=Path, default=Path("build", "gpu_check"))
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--tests-only", action="store_true")
    only.add_argument("--bench-only", action="store_true")
    parser.add_argument("--limit-s", type=float, default=540)
    parser.add_argument("--tests", action="append", metavar="PATH", help=f"instead of {TESTS}")
    parser.add_argument("--processes", type=int, default=6, help="how many run tests at once")
    parser.add_argument("--select", default="gpu", help="marks to select, as pytest's -m")
    return parser.parse_args()


# Testing


def check(
    place: Place, options: argparse.Namespace, machine: dict[str, Any], deadline: float
) -> int:
    """Run the tests, whatever happens to the process; write and show what became of them."""
    began = time.monotonic()
    log = place.output / "tests.jsonl"
    log.unlink(missing_ok=True)
    # What needs the device to itself comes last, by itself.
    run, count = partial(run_share, place, options, log, deadline), options.processes
    with ThreadPoolExecutor(count) as pool:
        ended = list(pool.map(lambda index: run(f"{index}/{count}", "not alone"), range(count)))
    ended.append(run("0/1", "alone"))
    complete = set(ended) <= {"0", "1", "5"}  # pytest's own: all well, failures, or no test left
    results = collect(log)
    elapsed_s = round(time.monotonic() - began, 1)
    rows = [
        {"case": f"{backend}/{device}", "backend": backend, "device": device, **asdict(tally)}
        for backend, devices in results.items()
        for device, tally in devices.items()
    ]
    facts = dict(machine)
    versions, settings = facts.pop("versions"), {"complete": complete, "elapsed_s": elapsed_s}
    failures = parity_figures(rows, complete=complete)
    more = {"versions": versions, "settings": settings}
    write_results(place.output / "parity.json", facts, rows, failures, **more)
    show(results, complete, elapsed_s)
    tallies = [tally for devices in results.values() for tally in devices.values()]
    good = complete and any(t.passed for t in tallies) and not any(t.failed for t in tallies)
    return 0 if good else 1


def parity_figures(rows: list[dict[str, Any]], *, complete: bool) -> list[Figure]:
    """Say how many tests failed, of which there should be none."""
    failed, count = (sum(row[key] for row in rows) for key in ("failed", "passed"))
    name, note = "tests that fail", f"{count:,} pass"
    return [at_most(name, 0, "tests", failed, right=complete, note=note)] if rows else []


def run_share(
    place: Place, options: argparse.Namespace, log: Path, deadline: float, share: str, select: str
) -> str:
    """Run a share of the tests until it ends in good order; return pytest's status."""
    ended, starts = "", 0
    while not ended and starts < _MAX_STARTS and time.monotonic() < deadline:
        starts += 1
        ended = run_tests(place, options, log, deadline, share, select)
    return ended


def run_tests(
    place: Place, options: argparse.Namespace, log: Path, deadline: float, share: str, select: str
) -> str:
    """Run the tests that have not begun yet; return pytest's status, "" if the process died."""
    tests = [test for test in options.tests or TESTS if (ROOT / test.split("::")[0]).exists()]
    marked = f"({options.select}) and {select}"
    command = ["-m", "pytest", *tests, "-m", marked, "-q", "-p", "no:cacheprovider"]
    command += ["-p", "result_log", "--results", str(log), "-p", "_hypothesis_pytestplugin"]
    command += ["--share", share]
    # The options of pyproject.toml are for plugins that may not be here.
    command += ["-c", "pyproject.toml", "-o", "addopts=", "--import-mode=importlib"]
    command += ["--strict-markers", "--continue-on-collection-errors"]
    before = len(_ends(log, share))
    try:
        place.run(*command, timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        say("the time for the tests is over")
    return "".join(_ends(log, share)[before:])


def _ends(log: Path, share: str) -> list[str]:
    lines = read_log(log) if log.exists() else ()
    return [each["end"] for each in lines if each.get("share") == share]


def collect(log: Path) -> dict[str, dict[str, Tally]]:
    """Sort results by backend and device; a test that began and never ended has failed."""
    ended: dict[str, tuple[str, str]] = {}
    for each in read_log(log) if log.exists() else ():
        if "began" in each:
            ended[each["began"]] = (
                "failed",
                "it never ended: the process died, hung or ran out of time",
            )
        elif "test" in each:
            ended[each["test"]] = (each["outcome"], each["why"])
    results: dict[str, dict[str, Tally]] = {}
    for test, (outcome, why) in ended.items():
        backend, device = subject(test)
        devices = results.setdefault(backend, {})
        devices.setdefault(device, Tally()).add(test, outcome, why)
    return results


def subject(test: str) -> tuple[str, str]:
    """Tell from a test's name which backend it tests, and on which device."""
    if named := re.search(r"\[([\w-]+?)-(cpu|cuda)\b", test):
        return named[1], named[2]
    if named := re.search(r"tests/(?:backends|thaw)/test_(\w+)\.py", test):
        compat = "-compat" if named[1] == "gds" and "Compat" in test else ""
        return named[1] + compat, "cuda"
    return "thaw.cuda", "cuda"


def show(results: dict[str, dict[str, Tally]], complete: bool, elapsed_s: float) -> None:
    say(f"\n{'backend':14} {'device':6} {'passed':>6} {'failed':>6} {'skipped':>7}")
    for backend, devices in sorted(results.items()):
        for device, tally in sorted(devices.items()):
            counts = f"{tally.passed:6} {tally.failed:6} {tally.skipped:7}"
            say(f"{backend:14} {device:6} {counts}  {'; '.join(tally.reasons)}")
    for tally in (tally for devices in results.values() for tally in devices.values()):
        for failure in tally.failures:
            say(f"FAILED {failure['test']}: {failure['why']}")
    say(f"{'complete' if complete else 'NOT COMPLETE'}, {elapsed_s} s")


# Measuring


def measure(place: Place, commit: str, deadline: float) -> int:
    """Run the benchmark with the time that is left."""
    left_s = deadline - time.monotonic() - WRAP_UP_S
    if left_s < _BENCH_START_S:
        say("no time is left to measure")
        return 1
    command: list[str] = [sys.executable, str(ROOT / "benchmarks" / "line_rate.py")]
    command += ["--out", str(place.output / "line_rate.json"), "--commit", commit]
    command += ["--budget-s", f"{left_s * 0.8:.0f}", "--timeout-s", f"{min(180, left_s / 2):.0f}"]
    command += ["--peers", str(place.peers)] if place.peers.exists() else []
    return run_until(command, place, left_s)


if __name__ == "__main__":
    sys.exit(main())
