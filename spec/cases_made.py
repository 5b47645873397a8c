"""Vectors that no archive can hold: pipes, links, many ranks, large texts, tensors without end.

They are made in a folder when a reader is to be proved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cases_limits import CASES as LIMITS
from make_vectors import serialize
from vector_builder import File, text
from vector_case import (
    PLAIN,
    Case,
    Content,
    Folder,
    build,
    either,
    invalid,
    metadata,
    plain,
    rank_shard,
    ranks,
    sealed,
    valid,
)

Writer: TypeAlias = Callable[[Path, Case], None]

INDEX, TWO = "snapshot.json", "rank-00001-of-00002.thaw"
SET = ranks(rank_shard(0), rank_shard(1))
RANKS = 1100
CONTAINERS, COMMAS = 1 << 20, 1 << 23
NULL = "/dev/null"


@dataclass(frozen=True, slots=True)
class Made:
    """A vector, and what writes it to a path."""

    case: Case
    write: Writer


def make(folder: Path, chosen: Sequence[Made] | None = None) -> list[Path]:
    """Write the vectors, or those that are chosen, below a folder, and return their paths.

    Raises:
        OSError: the system has no pipes, or no links.
    """
    paths = []
    for each in chosen or (*SMALL, *(Made(case, _plainly) for case in _large())):
        path = folder / f"{each.case.place}.thaw"
        path.parent.mkdir(parents=True, exist_ok=True)
        each.write(path, each.case)
        path.with_suffix(".json").write_text(serialize(each.case.expected()), encoding="utf-8")
        paths.append(path)
    return paths


def _plainly(path: Path, case: Case) -> None:
    if not isinstance(case.content, dict):
        path.write_bytes(build(case.content))
        return
    for name, content in case.content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(build(content))


def _nothing(path: Path, case: Case) -> None:
    pass


def _pipe(path: Path, case: Case) -> None:
    os.mkfifo(path)


def _device(path: Path, case: Case) -> None:
    path.symlink_to(NULL)


def _linked(path: Path, case: Case) -> None:
    """Write it beside, and make a link to that."""
    beside = path.with_name(f"{path.stem}-target")
    _plainly(beside, case)
    path.symlink_to(beside.name)


def _replacing(name: str, put: Callable[[Path], None]) -> Writer:
    """Write the case, with something else in the place of one file of it."""

    def write(path: Path, case: Case) -> None:
        _plainly(path, case)
        (path / name).unlink()
        put(path / name)

    return write


def _linking(*names: str) -> Writer:
    """Write the case, with files moved to a folder beside it and links in their places."""

    def write(path: Path, case: Case) -> None:
        _plainly(path, case)
        store = path.with_name(f"{path.stem}-store")
        store.mkdir()
        for number, name in enumerate(names):
            (path / name).rename(store / str(number))
            (path / name).symlink_to(Path("..", store.name, str(number)))

    return write


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _folder_link(path: Path) -> None:
    store = path.parent.with_name(f"{path.parent.stem}-folder")
    store.mkdir()
    path.symlink_to(store)


def _odd(where: str) -> dict[str, tuple[str, Callable[[Path], None]]]:
    return {
        "pipe": (f"a pipe in the place of {where}", os.mkfifo),
        "device": (f"a link to a device in the place of {where}", _link_to(NULL)),
        "broken-link": (f"a link to nothing in the place of {where}", _link_to("nothing")),
        "loop": (
            f"a link to itself in the place of {where}",
            lambda path: path.symlink_to(path.name),
        ),
        "folder-link": (f"a link to a folder in the place of {where}", _folder_link),
    }


def _case(rules: str, code: str, variant: str, description: str, content: Content) -> Case:
    return invalid(rules, code, {variant: (description, content)})[0]


def _filled(containers: int, commas: int) -> File:
    """Make the plain file with so many objects and arrays, and commas, in its manifest."""
    containers -= text(PLAIN).count(b"{") + text(PLAIN).count(b"[") + 2
    commas -= text(PLAIN).count(b",") + containers - 1
    return metadata(b'{"[{,":[' + b"{}," * (containers - 1) + b"{}" + b",0" * commas + b"]}")


def _commas(commas: int) -> File:
    commas -= text(PLAIN).count(b",")
    return metadata(b'{"[{,":[0' + b",0" * commas + b"]}")


def _spaced(nbytes: int) -> Folder:
    """Make the set with an index that white space makes so long."""
    return SET | {INDEX: sealed(build(SET[INDEX]).ljust(nbytes))}


def _large_index(containers: int) -> Folder:
    plainly = build(SET[INDEX])
    containers -= plainly.count(b"{") + plainly.count(b"[") + 1
    return ranks(rank_shard(0), rank_shard(1), later=[[]] * containers)


PATHS = [
    Made(_case("PATH-1", "not-a-file", "pipe", "a pipe", b""), _pipe),
    Made(_case("PATH-1", "not-a-file", "device", "a link to a device", b""), _device),
    Made(
        Case(name="io-missing", description="no file", rules=(), content=b"", code="io"), _nothing
    ),
    Made(
        Case(
            name="io-broken-link", description="a link to nothing", rules=(), content=b"", code="io"
        ),
        lambda path, _: path.symlink_to("nothing"),
    ),
    Made(valid("link", "PATH-1", "a link to a file", plain()), _linked),
    Made(valid("link-set", "PATH-1", "a link to a folder", SET), _linked),
]
SMALL = [
    *PATHS,
    *(Made(case, _plainly) for case in LIMITS),
    *(
        Made(_case("SET-1", "set-missing-index", name, description, SET), _replacing(INDEX, put))
        for name, (description, put) in _odd("the index").items()
    ),
    *(
        Made(_case("SET-5", "set-missing-rank", name, description, SET), _replacing(TWO, put))
        for name, (description, put) in _odd("the file of rank 1").items()
    ),
    Made(
        valid("set-linked", "SET-1 SET-5", "links in the place of all files", SET),
        _linking(*SET),
    ),
    Made(
        _case(
            "SET-7",
            "set-root-digest",
            "linked",
            "a link to the shard of another snapshot",
            SET | {TWO: rank_shard(1, head={"minor": 1})},
        ),
        _linking(TWO),
    ),
]


def _large() -> list[Case]:
    """Make the cases of large texts: they take memory, so only when they are asked for."""
    return [
        valid(
            "limit-floor-containers",
            "CON-3",
            "as many objects and arrays as the floor, and brackets in a string",
            _filled(CONTAINERS, CONTAINERS + 99),
        ),
        valid("limit-floor-commas", "CON-3", "as many commas as the floor", _commas(COMMAS)),
        valid(
            "limit-floor-string",
            "CON-3 JSON-5",
            "more brackets and commas in a string than the floors, behind escaped quotes",
            metadata(b'{"\\\\":"\\"' + b"[{," * (3 << 20) + b'","b":[]}'),
        ),
        valid(
            "limit-floor-index",
            "CON-3 SET-3",
            "an index of as many objects and arrays as the floor",
            _large_index(CONTAINERS),
        ),
        valid("set-index-16-mib", "SET-2", "an index of 16777216 bytes", _spaced(1 << 24)),
        _case(
            "SET-2",
            "set-bad-index",
            "16-mib",
            "an index of 16777217 bytes, white space for the most part",
            _spaced((1 << 24) + 1),
        ),
        either(
            "limit-containers",
            "CON-3",
            "limit",
            "one object more than the floor",
            _filled(CONTAINERS + 1, CONTAINERS + 99),
        ),
        either(
            "limit-8-mib",
            "CON-3",
            "limit",
            "8 MiB of empty objects",
            _filled((8 << 20) // 3, (8 << 20) // 3 + 99),
        ),
        either(
            "limit-commas", "CON-3", "limit", "one comma more than the floor", _commas(COMMAS + 1)
        ),
        either(
            "limit-index",
            "CON-3",
            "limit",
            "an index of one array more than the floor",
            _large_index(CONTAINERS + 1),
        ),
        valid(
            "set-many-ranks",
            "CON-4 SET-5",
            "more ranks than a process may have files open, by what conformance.py allows it",
            ranks(*(rank_shard(rank, RANKS) for rank in range(RANKS))),
        ),
    ]
