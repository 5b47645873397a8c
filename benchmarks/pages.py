"""Turn results into pages: each page is a list of sections, each section a table of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeAlias

from results import Row

Column: TypeAlias = "str | Callable[[Any], object]"
"""A key of a row, or what makes a cell of a row."""
MADE = "Made by `benchmarks/make_pages.py` from the raw results; do not edit."
UNITS = "GB = 10^9 bytes, MiB = 2^20 bytes."


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Attributes:
        rows: chooses rows of what the page is about; a section without any is left out.
        columns: what each row says, by the head of its column; if none, all that the rows hold.
        text: stands above the table.
    """

    title: str
    rows: Callable[[Any], Iterable[Any]]
    columns: Mapping[str, Column] = field(default_factory=dict)
    text: str = ""


def render(sections: Iterable[Section], subject: Any, level: int = 2) -> list[str]:
    """Return the lines of sections about something; titles without words are left out."""
    lines: list[str] = []
    for section in sections:
        if not (chosen := list(section.rows(subject))):
            continue
        if section.title:
            lines += [f"{'#' * level} {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        columns = section.columns or {head: head for head in chosen[0]}
        rows = [[_cell(row, column) for column in columns.values()] for row in chosen]
        lines += table(list(columns), rows)
    return lines


def page(title: str, intro: Iterable[str], lines: Iterable[str]) -> str:
    """Return a page."""
    return "\n".join([f"# {title}", "", MADE, UNITS, *intro, "", *lines]).rstrip() + "\n"


def figures(found: Mapping[str, Row], level: int = 2) -> list[str]:
    """Return the lines about the figures of files, and which file each is of if there are more."""
    rows = [each | {"of": name} for name, file in found.items() for each in file["figures"]]
    columns: dict[str, Column] = {"figure": "name", "aim": _aim, "found": found_in_words}
    columns |= {"reached": "reached"} | ({"of": "of"} if len(found) > 1 else {})
    return render([Section("Figures to reach", lambda each: each, columns)], rows, level)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def origin(name: str, found: Row) -> str:
    """Say in a line where a file of results came to be."""
    facts, settings = found["machine"] | found.get("versions", {}), found.get("settings", {})
    said = "; ".join(described(each) for each in (facts, settings) if each)
    return f"[results/{name}](results/{name}): {said}."


def described(facts: Mapping[str, Any]) -> str:
    """List facts by name in a line; of those in groups, what the groups hold."""
    return ", ".join(
        described(value) if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in facts.items()
        if value is not None
    )


def escaped(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def code(key: str) -> Callable[[Any], str]:
    """Make a column of what is written as code."""
    return lambda row: f"`{raw_of(row)[key]}`"


def median_s(samples: Sequence[float]) -> str:
    return f"{median(samples):.3f}" if samples else ""


def spread_s(samples: Sequence[float]) -> str:
    return f"{min(samples):.3f} to {max(samples):.3f}" if len(samples) > 1 else ""


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def raw_of(row: Any) -> Row:
    """Return what a file holds of a row."""
    found: Row = getattr(row, "raw", row)
    return found


def yes(value: bool | None) -> str:
    return {True: "yes", False: "**no**", None: ""}[value]


def _cell(row: Any, column: Column) -> str:
    value = raw_of(row).get(column) if isinstance(column, str) else column(row)
    if value is None or isinstance(value, bool):
        return yes(value)
    return f"{value:,}" if isinstance(value, int) else escaped(value)


def _aim(figure: Row) -> str:
    return f"{figure['bound']} {_measure(figure['aim'], figure['unit'])}"


def found_in_words(figure: Row) -> str:
    """Say what was found of a figure, in its unit, and what else to know."""
    if figure["found"] is None:
        return "not measured"
    note = f" ({figure['note']})" if figure["note"] else ""
    return _measure(figure["found"], figure["unit"]) + note


def _measure(value: float, unit: str) -> str:
    """Say a value in its unit, to three digits."""
    said = f"{value:,.0f}" if abs(value) >= 1000 else re.sub(r"\.0$", "", f"{value:.3g}")
    return f"{said} {unit}"
