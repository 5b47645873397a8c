"""The shape that every file of results has, and the figures to reach.

A file holds {machine, versions?, settings?, runs?, figures, rows}. A row has a `case` and what was
measured of it, or a `reason` why nothing was; where a file has several kinds of rows, `part` says
which; where it has several `runs`, `run` says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
MIB = 1 << 20
FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to reach.

    Attributes:
        bound: "at least" or "at most".
        aim: in `unit`, as what was found; that is None if nothing was measured.
        reached: whether it is enough, and right; None if nothing was measured.
    """

    name: str
    bound: str
    aim: float
    found: float | None
    unit: str
    reached: bool | None
    note: str = ""


def at_least(
    name: str, aim: float, unit: str, found: float | None, *, right: bool = True, note: str = ""
) -> Figure:
    """Compare; what is wrong reaches nothing."""
    reached = None if found is None else found >= aim and right
    return Figure(name, "at least", aim, found, unit, reached, note)


def at_most(
    name: str, aim: float, unit: str, found: float | None, *, right: bool = True, note: str = ""
) -> Figure:
    """Compare; what is wrong reaches nothing."""
    reached = None if found is None else found <= aim and right
    return Figure(name, "at most", aim, found, unit, reached, note)


def none_of(name: str, rows: Sequence[Row], wrong: Iterable[Row]) -> Figure:
    """Say how many rows are wrong, of which there should be none."""
    return at_most(name, 0, f"of {len(rows):,}", len(list(wrong)) if rows else None)


def write_results(
    path: Path,
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    figures: Iterable[Figure],
    **more: Any,
) -> None:
    """Write a file of results, which is whole at every moment."""
    document = {"machine": machine, **more, "figures": list(map(asdict, figures)), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)


def read_results(*names: str, folder: Path = FOLDER) -> dict[str, Row]:
    """Return those files that are there, by name."""
    paths = {name: folder / name for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def part_of(rows: Iterable[Row], part: str) -> list[Row]:
    """Return the rows of one kind."""
    return [row for row in rows if row.get("part") == part]
