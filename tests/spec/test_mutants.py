"""Readers that are wrong in one thing: each fails at least one vector.

They are made from the source of spec/reader.py by replacing text. A mutant that passes every vector
is a rule, or an order, that no vector shows.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutating import CHECK, SPEC, crc32c, load, mutated, read_mutants
from mutating import failures as failures_of
from mutating import line_of as line_in

SOURCE = (SPEC / "reader.py").read_text(encoding="utf-8")
VECTORS: list[tuple[Path, Any]] = []


@pytest.fixture(scope="module", autouse=True)
def _vectors(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read the vectors, and make those that need more than an archive, but for pipes: a mutant
    might wait for one."""
    sys.path.insert(0, str(SPEC))
    cases = importlib.import_module("cases_made")
    sys.path.remove(str(SPEC))
    made = tmp_path_factory.mktemp("made")
    cases.make(made, [each for each in cases.SMALL if "pipe" not in each.case.name])
    for folder in (SPEC / "vectors", made):
        for path in sorted(folder.glob("*valid/*.json")):
            VECTORS.append((path.with_suffix(".thaw"), json.loads(path.read_text("utf-8"))))


def failures(source: str) -> Iterator[str]:
    """Yield what the reader of this source gets wrong, vector by vector."""
    reader: Any = load("spec_mutant", source)
    reader.crc32c = crc32c
    return failures_of(reader, VECTORS)


def test_the_right_reader_passes() -> None:
    assert list(failures(SOURCE)) == []


# A mutant that fails half-way leaves files open.
IGNORE_OPEN_FILES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CHECKS = list(CHECK.finditer(SOURCE))
# What a vector cannot show: files that change, what a reader may leave out, an index of 16 MiB.
UNSHOWN = (
    "the file ended while it was read",
    "HASH-1",
    "HASH-2",
    '"limit", "CON-3", f"{containers}',
    '"too large"',
)


def line_of(check: re.Match[str]) -> str:
    return line_in(SOURCE, check)


SHOWN = [check for check in CHECKS if not any(each in line_of(check) for each in UNSHOWN)]


def test_the_checks_of_the_reader_are_found() -> None:
    found = {
        code for check in CHECKS for code in re.findall(r'"([a-z]+(?:-[a-z]+)+)",', line_of(check))
    }
    assert len(CHECKS) > 70
    assert {"bad-magic", "section-overlap", "misaligned-tensor", "set-place"} <= found
    assert len(CHECKS) - len(SHOWN) == len(UNSHOWN) + 2


@IGNORE_OPEN_FILES
@pytest.mark.parametrize("check", SHOWN, ids=line_of)
def test_no_check_can_be_left_out(check: re.Match[str]) -> None:
    start, end = check.span(1)
    assert next(failures(SOURCE[:start] + "True" + SOURCE[end:]), None) is not None


MUTANTS = read_mutants(Path(__file__).with_name("mutants.txt"))


@IGNORE_OPEN_FILES
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_reader_fails(name: str) -> None:
    assert next(failures(mutated(SOURCE, MUTANTS[name])), None) is not None
