"""A pytest plugin that writes each result at once, so that a process that dies takes none along.

    pytest -p result_log --results FILE [--test-limit-s N] [--share 2/6]

A process that is started again with the same file leaves out what began before. Processes that run
at once may share a file, each with its share of the tests.
"""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

BLOCK = 8


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
    parser.addoption("--share", default="0/1", help="which share of how many, from 0")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to log."""
    file, limit_s = config.getoption("--results"), config.getoption("--test-limit-s")
    log = ResultLog(file, limit_s, config.getoption("--share"))
    config.pluginmanager.register(log, "result-log-of-this-run")


class ResultLog:
    """Hooks that note what began, what became of it, and an orderly end."""

    def __init__(self, file: Path, limit_s: float, share: str) -> None:
        self._file, self._limit_s, self._share = file, limit_s, share
        self._stacks = file.with_suffix(".stacks").open("a")
        file.touch()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        known = {each.get("began") for each in read_log(self._file)}
        mine = [item for item in self._cut(items) if item.nodeid not in known]
        kept = {item.nodeid for item in mine}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
        items[:] = mine

    def _cut(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Take every so-many-th block: neighbours have fixtures in common, and take as long."""
        index, count = map(int, self._share.split("/"))
        return [item for at, item in enumerate(items) if at // BLOCK % count == index]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._note(test=report.nodeid, outcome=report.outcome, why=_why(report))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note(began=nodeid)
        # A transfer that hangs may hold the interpreter: only this ends the process then.
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._stacks)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            took = f"{report.duration:.2f}"
            self._note(test=report.nodeid, outcome=report.outcome, why=_why(report), took_s=took)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._note(end=str(int(exitstatus)), share=self._share)

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
    # What a child process says ends with what happened to it.
    return (f"{lines[0][:300]} ... {lines[-1][:300]}" if lines[1:] else lines[0]) if lines else "?"
