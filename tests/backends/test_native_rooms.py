"""The rooms of the native backend's crate: which file uses which, and that it runs one way."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "backends" / "native" / "src"
# Each uses only those before it.
ROOMS = (
    "error",
    "cuda",
    "memory",
    "job",
    "io",
    "settings",
    "request",
    "host",
    "device",
    "python",
    "lib",
)

# What is no code, first; then what paths and modules are made of.
TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(\#*)".*?"\1|[bc]?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\])'"""
    r"""|(?P<token>[A-Za-z_]\w*|::|[{}(),;*\#\[\]]|\S)""",
    re.DOTALL,
)
Names = tuple[str, ...]


def tokens(text: str) -> list[str]:
    return [found["token"] for found in TOKEN.finditer(text) if found["token"]]


def module_of(path: Path, source: Path) -> Names:
    """Return the module that a file is; that of lib.rs is empty."""
    parts = path.relative_to(source).with_suffix("").parts
    return parts[:-1] if parts[-1] in {"lib", "mod"} else parts


def paths_in(words: list[str]) -> Iterator[tuple[Names, Names]]:
    """Yield each path of a file, braces taken apart, and the inline modules around it."""
    around: list[str | None] = []
    at = 0
    while at < len(words):
        word, before = words[at], words[at - 1] if at else ""
        if word == "{":
            around.append(words[at - 1] if at > 1 and words[at - 2] == "mod" else None)
        elif word == "}":
            around.pop()
        elif _begins_path(words, at, before):
            inline = tuple(name for name in around if name)
            found, at = _tree(words, at, ())
            yield from ((path, inline) for path in found)
            continue
        at += 1
    assert not around


def _begins_path(words: list[str], at: int, before: str) -> bool:
    after = words[at + 1] if at + 1 < len(words) else ""
    return words[at].isidentifier() and before != "::" and (after == "::" or before == "use")


def _tree(words: list[str], at: int, prefix: Names) -> tuple[list[Names], int]:
    """Read a path, or a tree of them, and return what it stands for and where it ends."""
    path = prefix
    while words[at].isidentifier() or words[at] == "*":
        path = (*path, words[at])
        at += 1
        if words[at] != "::":
            return [path], at
        at += 1
    if words[at] != "{" or not path:
        return [path], at
    found: list[Names] = []
    while words[at] != "}":
        more, at = _tree(words, at + 1, path)
        found += more
        while words[at] not in {",", "}"}:
            at += 1
    return found, at + 1


class Crate:
    """The files of a crate, and which uses which."""

    def __init__(self, source: Path) -> None:
        self.files = {module_of(path, source): path for path in source.rglob("*.rs")}
        self.uses = {module: set(self._used(module)) - {module} for module in self.files}

    def _used(self, module: Names) -> Iterator[Names]:
        words = tokens(self.files[module].read_text())
        assert "include" not in words, f"{self.files[module]}: a file within a file is not seen"
        assert ["#", "[", "path"] not in [words[i : i + 3] for i in range(len(words))]
        for path, inline in paths_in(words):
            if absolute := self._absolute(path, module, (*module, *inline)):
                yield self._file(absolute)

    def _absolute(self, path: Names, module: Names, here: Names) -> Names | None:
        if path[0] == "crate":
            return path[1:] or ("",)
        if path[0] in {"self", "super"}:
            up = sum(1 for name in path if name == "super")
            rest = path[up:] if up else path[1:]
            return (*here[: len(here) - up], *rest)
        # A module of this file's own, named without saying where it is.
        return (*module, *path) if (*module, path[0]) in self.files else None

    def _file(self, path: Names) -> Names:
        """Return the file that has what a path names."""
        return next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.files)

    def circle(self) -> list[Names]:
        try:
            TopologicalSorter(self.uses).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []

    def against_the_order(self) -> list[tuple[Names, Names]]:
        pairs = ((user, used) for user, all_used in self.uses.items() for used in all_used)
        return [pair for pair in pairs if _place(pair[1]) > _place(pair[0])]


def _place(module: Names) -> int:
    return ROOMS.index(module[0] if module else "lib")


def test_rooms_use_each_other_one_way() -> None:
    assert Crate(SOURCE).against_the_order() == []


def test_no_files_use_each_other_in_a_circle() -> None:
    assert Crate(SOURCE).circle() == []


def test_every_room_is_in_the_order() -> None:
    rooms = {module[0] if module else "lib" for module in Crate(SOURCE).files}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(
    ("file", "line", "used"),
    [
        ("io/reopen.rs", "use crate::io::file::File;", "io/file.rs"),
        ("io/reopen.rs", "use crate::{io::{self, file::{Io, File}}, error::Error};", "io/file.rs"),
        ("io/reopen.rs", "use super::file;", "io/file.rs"),
        ("io/reopen.rs", "fn f() { super::file::open(); }", "io/file.rs"),
        ("io/reopen.rs", "mod inner { use super::super::source::Files; }", "io/source.rs"),
        ("io/reopen.rs", "fn f(x: &dyn Fn(&crate::io::source::Files)) {}", "io/source.rs"),
        ("io/reopen.rs", "const A: char = '\"'; use crate::io::source::*;", "io/source.rs"),
        ("io/mod.rs", "use reopen::reopen;", "io/reopen.rs"),
        ("io/mod.rs", "fn f() { reopen::name_of(fd); }", "io/reopen.rs"),
        ("error.rs", "pub use crate::memory as pages;", "memory/mod.rs"),
        ("error.rs", "use crate::anything;", "lib.rs"),
    ],
)
def test_a_use_is_seen_however_it_is_written(
    tmp_path: Path, file: str, line: str, used: str
) -> None:
    source = _copy(tmp_path)
    (source / file).write_text(line)
    uses = Crate(source).uses[module_of(source / file, source)]
    assert module_of(source / used, source) in uses


@pytest.mark.parametrize(
    "text",
    [
        "// use crate::io::file::File;",
        "/* use crate::io::file::File; */",
        'const A: &str = "crate::io::file::File";',
        'const A: &str = r#"" crate::io::file::File "#;',
        "mod inner { use super::reopen; }",
        "fn f<'a>(x: &'a u8) -> &'a u8 { std::hint::black_box(x) }",
    ],
)
def test_what_is_no_use_is_not_seen(tmp_path: Path, text: str) -> None:
    source = _copy(tmp_path)
    (source / "io" / "reopen.rs").write_text(text)
    assert Crate(source).uses["io", "reopen"] == set()


def test_a_circle_is_found(tmp_path: Path) -> None:
    source = _copy(tmp_path)
    _append(source / "io" / "reopen.rs", "use crate::io::source::Files;")
    assert {("io", "reopen"), ("io", "file"), ("io", "source")} <= set(Crate(source).circle())


def test_a_use_against_the_order_is_found(tmp_path: Path) -> None:
    source = _copy(tmp_path)
    _append(source / "memory" / "mod.rs", "use crate::device::submit;")
    assert Crate(source).against_the_order() == [(("memory",), ("device", "submit"))]


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(SOURCE, folder / "src"))


def _append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")
