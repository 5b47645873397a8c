"""Make benchmarks/line_rate.md and its plots from results/line_rate.json and parity.json alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cases import Settings, catalogue
from line_rate_results import MIB, LineRate, Measured, machines
from parity_page import section
from tables import cell, described, seconds, table, yes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "line_rate.json"
NOTE = """\
Each case runs in a fresh process. The clock starts after CUDA, the imports and, for thaw, the list
of backends: *ready* says how long those imports took. It stops when the device is done. *first* is
the first transfer of a process, *again* a later one with a new destination, *into* one that fills
tensors which are there. After every sample the tensors are compared with what the seed gives and
then zeroed, outside the clock. Shares are of the ceiling measured in the same run; where a row has
plain writes (or, from the cold disk, plain O_DIRECT reads) of as many bytes, made between its
samples, of the best of these. The share of a checkpoint is of *undigested*: the same `.thaw` file,
restored in turn with it and opened within the clock as a snapshot whose digests are left out, so
that nothing is checked. *unread* is a copy of the `.thaw` file that nobody has read since it was
written; the other files had been read before."""


def files(results: Path = RESULTS, folder: Path = HERE) -> dict[Path, str]:
    """Return what the page holds, by path; nothing where nothing was measured."""
    if not results.exists():
        return {}
    found, *others = machines(json.loads(results.read_text()))
    return {folder / "line_rate.md": page(found, others, section(results.parent))}


def headline(found: LineRate) -> str:
    """Say in a sentence what was measured first, beside the best of the others."""
    first, again = (found.find("restore/tmpfs/native", what) for what in ("first", "again"))
    others = {
        what: max((row.gbps for row in found.of("peer") if row.raw["what"] == what), default=None)
        for what in ("first", "again")
    }
    bus, machine = found.ceiling("tmpfs/h2d-pinned"), found.runs[-1]["machine"]
    if None in (first, again, bus, *others.values()):
        return "The line rate has not been measured on a GPU yet."
    assert first and again
    return (
        f"On one {machine['device']} whose bus moved {bus:.1f} GB/s in the same run, "
        f"{first.raw['nbytes'] / 1e9:.0f} GB of bf16 in tmpfs, every chunk checked: "
        f"{first.gbps:.1f} GB/s in the first restore of a fresh process, {again.gbps:.1f} "
        f"afterwards; the best other loader in that run {others['first']:.1f} and "
        f"{others['again']:.1f}, unchecked."
    )


def _lacking(raw: dict[str, Any]) -> list[str]:
    """List the cases that no run has rows of, in the order of the catalogue."""
    settings, measured = (
        Settings(tmpfs="", disk="", **raw["settings"]),
        {r["case"] for r in raw["rows"]},
    )
    cases = catalogue(settings).values()
    return [c.name for c in cases if c.action != "ceilings" and c.name not in measured]


def page(found: LineRate, others: Sequence[LineRate], more: list[str]) -> str:
    settings = found.raw["settings"]
    tensors = sorted({row.raw["tensors"] for row in found.rows})
    moved = max((row.raw["nbytes"] for row in found.rows), default=0)
    counts = " and ".join(f"{count:,}" for count in tensors)
    parts = [
        "# Line rate: from files to the device and back",
        "",
        "Made by `benchmarks/make_pages.py` from the raw results; do not edit.",
        "",
        f"{moved / 1e9:.3f} GB of bf16 in {counts} tensors, device {settings['device']}.",
        "GB = 10^9 bytes. Raw results: [results/line_rate.json](results/line_rate.json).",
        *_origin(found),
        "",
        NOTE,
        "",
        "## Figures to reach",
        "",
        *table(
            ("figure to reach", "found", "reached"),
            ((each.what, each.found, yes(each.reached)) for each in found.figures()),
        ),
        "Where the time goes in what is not reached, and what was tried: [notes.md](notes.md).",
        "",
        *_sections(found, "##", _missing(found.raw)),
        *more,
    ]
    if others:
        parts += [
            "## On other machines",
            "",
            "What the run above had no time for, as runs before it found it, each at its commit.",
            "Shares are of what that machine reached.",
            "",
        ]
    for run in others:
        parts += [
            f"### At {run.runs[-1]['machine']['commit']}, from {run.runs[0]['began']}",
            "",
            *_origin(run),
            "",
            *_sections(run, "####", []),
        ]
    return "\n".join(parts).rstrip() + "\n"


def _origin(found: LineRate) -> list[str]:
    """Say where and how results came to be."""
    runs = found.runs
    facts = described(runs[-1]["machine"])
    commands = "; ".join(f"`{' '.join(['line_rate.py', *run['command']])}`" for run in runs)
    return [f"Machine: {facts}.", f"Commands, on one machine: {commands}."]


def _sections(found: LineRate, level: str, missing: list[tuple[object, ...]]) -> list[str]:
    """Tabulate results, and what is missing from them."""
    few = found.of("restore", "unread", "checkpoint", "many")
    titled = [
        ("Ceilings", ("place", "ceiling", "GB/s", "how"), _ceilings(found)),
        ("Restore", _RESTORE, map(_restore_row, few)),
        (
            "Freeze",
            ("case", "sample", "median s", "spread s", "GB/s", "share", "path", "identical"),
            map(_freeze_row, found.of("freeze", "freeze-many")),
        ),
        (
            "Plain transfers between the samples",
            ("case", "sample", "way", "median s", "spread s", "GB/s"),
            _plain_rows(found),
        ),
        ("Memory", _MEMORY, map(_memory_row, (r for r in found.rows if r.raw["memory"]))),
        ("Beside other loaders", _PEERS, _peer_rows(found)),
        (
            "Beside other savers, to tmpfs",
            ("saver", "s", "GB/s", "version"),
            map(_save_row, found.of("save")),
        ),
        ("Not measured", ("cases", "why"), missing),
    ]
    lines = []
    for title, head, rows in titled:
        listed = list(rows)
        if listed:
            lines += [f"{level} {title}", "", *table(head, listed)]
    return lines


_RESTORE = (
    *("case", "sample", "tensors", "median s", "spread s", "GB/s", "share"),
    *("chunks checked", "path", "identical"),
)
_MEMORY = ("case", "device MiB", "of torch MiB", "anonymous host MiB", "machine MiB", "path")
_PEERS = ("loader", "setting", "ready s", "first GB/s", "best GB/s", "identical", "notes")


def _restore_row(row: Measured) -> tuple[object, ...]:
    checked = row.raw["chunks_checked"]
    return (
        f"`{row.raw['case']}`",
        row.raw["what"],
        f"{row.raw['tensors']:,}",
        *_timing(row),
        "" if checked is None else f"{checked:,}",
        row.raw["path_ran"],
        yes(row.raw["identical"]),
    )


def _freeze_row(row: Measured) -> tuple[object, ...]:
    end = (row.raw["path_ran"], yes(row.raw["identical"]))
    return (f"`{row.raw['case']}`", row.raw["what"], *_timing(row), *end)


def _timing(row: Measured) -> tuple[str, ...]:
    share = "" if row.share is None else f"{row.share:.2f}"
    return (*seconds(row.raw["samples_s"]), f"{row.gbps:.2f}", share)


def _plain_rows(found: LineRate) -> list[tuple[object, ...]]:
    return [
        (f"`{row.raw['case']}`", row.raw["what"], way, *seconds(times), _rate(gbps))
        for row in found.rows
        for way, times in row.raw.get("plain_s", {}).items()
        for gbps in [row.raw["nbytes"] / median(times) / 1e9]
    ]


def _memory_row(row: Measured) -> tuple[object, ...]:
    keys = ("device_nbytes", "torch_nbytes", "anonymous_nbytes", "machine_nbytes")
    sizes = (f"{row.raw['memory'][key] / MIB:.0f}" for key in keys)
    return (f"`{row.raw['case']}`", *sizes, row.raw["path_ran"])


def _peer_rows(found: LineRate) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for first in found.contenders():
        again = found.find(first.raw["case"], "again")
        best = max(row.best_gbps for row in (first, again) if row)
        same = [row.raw["identical"] for row in (first, again) if row]
        notes = cell(first.raw["note"] or "digests checked")
        cells = (f"{first.raw['ready_s']:.2f}", f"{first.gbps:.2f}", f"{best:.2f}")
        rows.append((*first.who, *cells, yes(all(same)), notes))
    return rows


def _save_row(row: Measured) -> tuple[object, ...]:
    return (row.parts[2], f"{row.median_s:.2f}", f"{row.gbps:.2f}", row.raw["note"])


def _ceilings(found: LineRate) -> list[tuple[object, ...]]:
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for run in found.runs:
        for place, each in run["ceilings"].items():
            newest |= {(place, ceiling["name"]): ceiling for ceiling in each}
    return [
        (place, name, _rate(each["gbps"]), cell("; ".join(map(_way, each["detail"]))))
        for (place, name), each in newest.items()
    ]


def _missing(raw: dict[str, Any]) -> list[tuple[object, ...]]:
    """Say why cases were not measured."""
    known = {each["case"]: cell(each["reason"]) for each in raw["missing"]}
    reasons: dict[str, list[str]] = {}
    for case in _lacking(raw):
        reasons.setdefault(known.get(case, "left out by the commands"), []).append(f"`{case}`")
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def _way(way: dict[str, Any]) -> str:
    """Say how fast one way was that was tried for a ceiling, or why it was not."""
    return f"{way['how']}: {way['reason'] or _rate(way['gbps'])}"


def _rate(gbps: float | None) -> str:
    return "" if gbps is None else f"{gbps:.2f}"
