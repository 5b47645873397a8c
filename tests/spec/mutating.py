"""Readers made wrong in one thing, by replacing text of their source, and how they are judged."""

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_loader
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c

SPEC = Path(__file__).resolve().parents[2] / "spec"
CHECK = re.compile(r"^ +(?:require|bad_index)\((?!condition)(.+?), f?\"", re.MULTILINE)
"""A line of a reader that checks a condition, which is the first group."""
Mutants = Mapping[str, Sequence[tuple[str, str]]]


def load(name: str, source: str) -> ModuleType:
    spec = spec_from_loader(name, loader=None)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


def load_conformance() -> ModuleType:
    source = (SPEC / "conformance.py").read_text(encoding="utf-8")
    return load("spec_conformance_of_mutants", source.replace("__file__", repr(str(SPEC / "x"))))


CONFORMANCE = load_conformance()


def crc32c(data: bytes, crc: int = 0) -> int:
    """Compute what the readers compute, in less time."""
    return google_crc32c.extend(crc, bytes(data))


def mutated(source: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        assert source.count(old) == 1, f"{source.count(old)} times in the reader: {old}"
        source = source.replace(old, new)
    return source


def failures(reader: Any, vectors: Sequence[tuple[Path, Any]]) -> Iterator[str]:
    """Yield what a reader gets wrong, vector by vector."""
    for path, expected in vectors:
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


def line_of(source: str, check: re.Match[str]) -> str:
    return source[check.start() : source.index("\n", check.end())].strip()


def read_mutants(path: Path) -> Mutants:
    """Read a file of mutants: for each title the texts to replace, and what by."""
    found: dict[str, list[tuple[str, str]]] = {}
    for block in path.read_text(encoding="utf-8").split("\n== ")[1:]:
        title, *lines = block.rstrip("\n").split("\n")
        assert title not in found
        runs = [(mark, [line[2:] for line in run]) for mark, run in groupby(lines, itemgetter(0))]
        assert [mark for mark, _ in runs] == ["-", "+"] * (len(runs) // 2), title
        texts = ["\n".join(run) for _, run in runs]
        found[title] = list(zip(texts[::2], texts[1::2], strict=True))
    return found
