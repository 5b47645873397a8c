"""A pytest plugin that writes each result at once, so that a process that dies takes none along.

    pytest -p result_log --results FILE [--test-limit-s N]

A process that is started again with the same file leaves out what began before.
"""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def read_log(file: Path) -> Iterator[dict[str, str]]:
    """Read a log whose last line may be cut."""
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the file of results and the time that a test may take."""
    parser.addoption("--results", type=Path)
    parser.addoption("--test-limit-s", type=float, default=120)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to log."""
    file, limit_s = config.getoption("--results"), config.getoption("--test-limit-s")
    config.pluginmanager.register(ResultLog(file, limit_s), "result-log-of-this-run")


class ResultLog:
    """Hooks that note what began, what became of it, and an orderly end."""

    def __init__(self, file: Path, limit_s: float) -> None:
        self._file, self._limit_s = file, limit_s
        self._stacks = file.with_suffix(".stacks").open("a")
        file.touch()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        known = {each.get("began") for each in read_log(self._file)}
        done = [item for item in items if item.nodeid in known]
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in known]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._note(test=report.nodeid, outcome=report.outcome, why=_why(report))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note(began=nodeid)
        # A transfer that hangs may hold the interpreter: only this ends the process then.
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._stacks)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._note(test=report.nodeid, outcome=report.outcome, why=_why(report))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._note(end=str(int(exitstatus)))

    def _note(self, **what: str) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(what) + "\n")


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    where: Any = report.longrepr
    if report.skipped and isinstance(where, tuple):
        return str(where[2]).removeprefix("Skipped: ")
    if not report.failed:
        return ""
    crash = getattr(where, "reprcrash", None)
    lines = str(crash.message if crash else where).strip().splitlines()
    return (lines[0] if crash else lines[-1])[:300] if lines else "no message"
