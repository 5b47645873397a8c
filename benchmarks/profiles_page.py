"""Make sections of benchmarks/line_rate.md from results/{read,write}_profile.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from tables import described, seconds, table

_READS = """\
`thaw.restore` is from the path on; below it are reads alone, by the native backend and without
digests, of what was opened before. *8 bytes later* is to memory that is aligned as that of a
checkpoint is. *one piece* is the beginning of the file alone: about what a read takes to begin and
to end. Plain reads are by 16 threads into page-locked memory, and no device takes part."""

_WRITES = """\
Each line is of as many bytes, to new files in turn, so that what else the machine does falls on all
of them alike; the spread says what one sample is worth."""


def sections(results: Path) -> list[str]:
    """Return the lines of both sections; none of what was not measured."""
    lines = []
    for name, title, make in (
        ("read_profile", "Where the time of a restore goes", _reads),
        ("write_profile", "Where the time of a freeze goes", _writes),
    ):
        file = results / f"{name}.json"
        if not file.exists():
            continue
        raw = json.loads(file.read_text())
        lines += [
            f"## {title}",
            "",
            f"`{name}.py`, machine: {described(raw['machine'])}.",
            f"Raw results: [results/{file.name}](results/{file.name}).",
            *make(raw["rows"]),
        ]
    return lines


def _reads(rows: list[dict[str, Any]]) -> list[str]:
    heads = ("what", "GB", "median s", "spread s", "each read, median ms")
    return [_READS, "", *table(heads, map(_read, rows))]


def _read(row: dict[str, Any]) -> tuple[str, ...]:
    reads = zip(*row["reads_s"], strict=True)
    return (
        row["what"],
        f"{row['nbytes'] / 1e9:.3f}",
        *seconds([sum(each) for each in row["reads_s"]]),
        ", ".join(f"{median(times) * 1e3:.1f}" for times in reads),
    )


def _writes(rows: list[dict[str, Any]]) -> list[str]:
    heads = ("file system", "what", "GB", "median s", "spread s", "each sample, s")
    return [_WRITES, "", *table(heads, map(_write, rows))]


def _write(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["where"],
        row["what"],
        f"{row['nbytes'] / 1e9:.3f}",
        *seconds(row["samples_s"]),
        ", ".join(f"{each:.2f}" for each in row["samples_s"]),
    )
