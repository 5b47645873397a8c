"""The pages of what was compared in turn, or beside something else: what their sections say."""

from __future__ import annotations

from collections.abc import Sequence

from pages import Section, code, figures, median_s, number, origin, page, render
from results import Row

TREES, STREAMS, IMPORTS = "before_after.json", "beside.json", "import_time.json"
_STREAMS = """\
One stream runs short kernels, a few always queued, as an engine does that decodes; meanwhile a
thread restores and freezes on another. *step*: from one kernel's end to the next one's,
the longest with 8 and with 256 kernels queued ahead. Where only the first is long, the host thread
that queues them was held up."""


def before_after(found: Row) -> str:
    """Return the page that compares two trees."""
    intro = ["", "`before_after.py`: both do the same in turn; medians of the ratios of seconds."]
    lines = [*figures({TREES: found}), *render([_BOTH], found["rows"])]
    return page("This tree beside one before", [*intro, "", origin(TREES, found)], lines)


def import_time(found: Row) -> str:
    """Return the page of what thaw takes before it does anything."""
    intro = ["", "`import_time.py`: fresh processes, Python's own start included; medians."]
    lines = [*figures({IMPORTS: found}), *render([_STARTS], found["rows"])]
    return page("How long thaw takes to start", [*intro, "", origin(IMPORTS, found)], lines)


def beside(found: Row) -> str:
    """Return the page of transfers beside a stream that computes."""
    lines = [*figures({STREAMS: found}), *render([_STEPS], found["rows"])]
    return page("Transfers beside kernels", ["", _STREAMS, "", origin(STREAMS, found)], lines)


_BOTH = Section(
    "Seconds and bytes",
    lambda rows: [row for row in rows if "samples_s" in row],
    {
        "case": code("case"),
        "before s": lambda row: median_s(row["samples_s"]["before"]),
        "after s": lambda row: median_s(row["samples_s"]["after"]),
        "identical": "identical",
    },
)
_STARTS = Section(
    "Seconds",
    lambda rows: rows,
    {
        "case": code("case"),
        "before s": lambda row: median_s(row["samples_s"].get("before", [])),
        "after s": lambda row: median_s(row["samples_s"]["after"]),
    },
)
_STEPS = Section(
    "Steps and transfers",
    lambda rows: rows,
    {
        "case": code("case"),
        "alone s": lambda row: median_s(row.get("alone_s", [])),
        "beside kernels s": lambda row: median_s(row.get("beside_s", [])),
        "median step ms": lambda row: number(_ms(row.get("step_s")), 2),
        "longest step ms": lambda row: _joint(row.get("longest_step_s", [])),
        "why not": "reason",
    },
)


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1e3


def _joint(values: Sequence[float]) -> str:
    return ", ".join(number(_ms(value), 2) for value in values)
