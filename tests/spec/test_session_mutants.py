"""Readers of sessions that are wrong in one thing: each fails at least one vector.

They are made from the source of spec/session_reader.py by replacing text. A mutant that passes
every vector is a rule, or an order, that no vector shows.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutating import CHECK, SPEC, crc32c, failures, line_of, load, mutated, read_mutants

SOURCE = (SPEC / "session_reader.py").read_text(encoding="utf-8")
VECTORS = [
    (path.with_suffix(".thaw"), json.loads(path.read_text("utf-8")))
    for path in sorted((SPEC / "sessions").glob("*valid/*.json"))
]
CHECKS = list(CHECK.finditer(SOURCE))


@pytest.fixture(scope="module", autouse=True)
def _format_reader() -> Iterator[None]:
    """Let mutants import the reader of the format, in which nothing is wrong."""
    before = sys.modules.get("reader")
    reader: Any = load("reader", (SPEC / "reader.py").read_text(encoding="utf-8"))
    reader.crc32c = crc32c
    yield
    del sys.modules["reader"]
    if before is not None:
        sys.modules["reader"] = before


def wrong(source: str) -> list[str]:
    """Say what the reader of this source gets wrong first."""
    found = failures(load("spec_session_mutant", source), VECTORS)
    return [each for each in [next(found, None)] if each is not None]


def test_the_right_reader_passes() -> None:
    assert wrong(SOURCE) == []


def test_the_checks_of_the_reader_are_found() -> None:
    codes = {re.search(r'"(session-[a-z-]+)"', line_of(SOURCE, check)) for check in CHECKS}
    found = {code[1] for code in codes if code}
    assert len(CHECKS) > 35
    assert {"session-missing", "session-window", "session-storage", "session-ranks"} <= found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: line_of(SOURCE, check))
def test_no_check_can_be_left_out(check: re.Match[str]) -> None:
    start, end = check.span(1)
    assert wrong(SOURCE[:start] + "True" + SOURCE[end:])


MUTANTS = read_mutants(Path(__file__).with_name("session_mutants.txt"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_reader_fails(name: str) -> None:
    assert wrong(mutated(SOURCE, MUTANTS[name]))
