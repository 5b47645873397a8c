"""Make a section of benchmarks/line_rate.md from results/read_profile.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from tables import described, seconds, table

_NOTE = """\
The native backend reads into new memory and checks nothing; nothing is opened within the clock.
*one piece* is the beginning of the file alone: about what a read takes to begin and to end."""


def section(results: Path) -> list[str]:
    """Return the lines of the section; none where nothing was measured."""
    if not results.exists():
        return []
    raw = json.loads(results.read_text())
    facts = described(raw["machine"])
    return [
        "## One file after the other",
        "",
        f"`read_profile.py`, machine: {facts}.",
        f"Raw results: [results/{results.name}](results/{results.name}).",
        _NOTE,
        "",
        *table(
            ("what", "GB", "median s", "spread s", "each read, median ms", "planned, median ms"),
            map(_row, raw["rows"]),
        ),
    ]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    reads = zip(*row["reads_s"], strict=True)
    return (
        row["what"],
        f"{row['nbytes'] / 1e9:.3f}",
        *seconds([sum(each) for each in row["reads_s"]]),
        ", ".join(f"{median(times) * 1e3:.1f}" for times in reads),
        f"{median(row['planned_s']) * 1e3:.1f}",
    )
