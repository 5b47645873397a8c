"""Readers that are wrong in one thing: each fails at least one vector.

They are made from the source of spec/reader.py by replacing text. A mutant that passes every vector
is a rule, or an order, that no vector shows.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c
import pytest

SPEC = Path(__file__).resolve().parents[2] / "spec"
SOURCE = (SPEC / "reader.py").read_text(encoding="utf-8")
NAME = "spec_mutant"
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


def load(name: str, source: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


def load_conformance() -> ModuleType:
    source = (SPEC / "conformance.py").read_text(encoding="utf-8")
    return load("spec_conformance_of_mutants", source.replace("__file__", repr(str(SPEC / "x"))))


CONFORMANCE = load_conformance()


def mutated(*pairs: tuple[str, str]) -> str:
    source = SOURCE
    for old, new in pairs:
        assert source.count(old) == 1, f"{source.count(old)} times in spec/reader.py: {old}"
        source = source.replace(old, new)
    return source


def failures(source: str) -> Iterator[str]:
    """Yield what the reader of this source gets wrong, vector by vector."""
    reader: Any = load(NAME, source)
    reader.crc32c = lambda data, crc=0: google_crc32c.extend(crc, bytes(data))
    for path, expected in VECTORS:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = reader.main(str(path))
        except Exception as error:  # noqa: BLE001 (a command would end without its line)
            yield f"{path.stem}: {error!r}"
            continue
        done = subprocess.CompletedProcess(
            [], status, out.getvalue().encode("utf-8", "replace"), err.getvalue().encode()
        )
        if (wrong := CONFORMANCE.judge(done, expected)) is not None:
            yield f"{path.stem}: {wrong}"


def test_the_right_reader_passes() -> None:
    assert list(failures(SOURCE)) == []


# A mutant that fails half-way leaves files open.
IGNORE_OPEN_FILES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CHECK = re.compile(r"^ +(?:require|bad_index)\((?!condition)(.+?), f?\"", re.MULTILINE)
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
    return SOURCE[check.start() : SOURCE.index("\n", check.end())].strip()


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


def read_mutants() -> dict[str, list[tuple[str, str]]]:
    """Read mutants.txt: for each title the texts to replace, and what by."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = Path(__file__).with_name("mutants.txt").read_text(encoding="utf-8")
    for block in text.split("\n== ")[1:]:
        title, *lines = block.rstrip("\n").split("\n")
        assert title not in found
        runs = [(mark, [line[2:] for line in run]) for mark, run in groupby(lines, itemgetter(0))]
        assert [mark for mark, _ in runs] == ["-", "+"] * (len(runs) // 2), title
        texts = ["\n".join(run) for _, run in runs]
        found[title] = list(zip(texts[::2], texts[1::2], strict=True))
    return found


MUTANTS = read_mutants()


@IGNORE_OPEN_FILES
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_reader_fails(name: str) -> None:
    assert next(failures(mutated(*MUTANTS[name])), None) is not None
