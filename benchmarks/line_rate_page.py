"""The page of the line-rate benchmark and of the tests on a GPU: what its sections say."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from cases import Settings, catalogue
from line_rate_results import LineRate, Measured, machines
from pages import (
    Column,
    Section,
    code,
    described,
    figures,
    median_s,
    number,
    origin,
    page,
    render,
    spread_s,
)
from results import MIB, Row

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
_PARITY = """\
The tests that need a GPU: every backend reads what every other wrote, by plans that are drawn at
random too, and its bytes and digests are compared with those of the reference; damaged, shortened
and replaced files; what the system refuses. `scripts/gpu/check.py` runs them."""
_ELSEWHERE = """\
What the run above had no time for, as runs before it found it, each at its commit.
Shares are of what that machine reached."""
_NOTES = "Where the time goes in what is not reached, and what was tried: [notes.md](notes.md)."
FILES = ("line_rate.json", "parity.json")


def make(found: Mapping[str, Row]) -> str:
    """Return the page; of tests that were not run nothing is said."""
    raw, parity = found[FILES[0]], found.get(FILES[1])
    newest, *others = machines(raw)
    lines = [*_origin(newest), "", NOTE, "", *figures({FILES[0]: raw})]
    lines += [_NOTES, "", *render([*SECTIONS, _MISSING], newest)]
    if parity:
        lines += ["## Parity of the backends", "", origin(FILES[1], parity), ""]
        lines += [] if parity["settings"]["complete"] else ["**Cut short.**", ""]
        lines += [_PARITY, ""]
        lines += [*render([_BACKENDS], parity), *figures({FILES[1]: parity}, 3)]
    if others:
        lines += ["## On other machines", "", _ELSEWHERE, ""]
    for each in others:
        runs = list(each.runs.values())
        lines += [f"### At {runs[-1]['machine']['commit']}, from {runs[0]['began']}", ""]
        lines += [*_origin(each), "", *render(SECTIONS, each, 4)]
    title = "Line rate: from files to the device and back"
    return page(
        title, [_subject(newest), f"Raw results: [results/{FILES[0]}](results/{FILES[0]})."], lines
    )


def headline(raw: Row) -> str:
    """Say in a sentence what was measured first, beside the best of the others."""
    found = LineRate(raw)
    first, again = (found.find("restore/tmpfs/native", what) for what in ("first", "again"))
    others = {
        what: max((row.gbps for row in found.of("peer") if row.raw["what"] == what), default=None)
        for what in ("first", "again")
    }
    bus = found.ceiling("tmpfs/h2d-pinned")
    if None in (first, again, bus, *others.values()):
        return "The line rate has not been measured on a GPU yet."
    assert first and again
    return (
        f"On one {raw['machine']['device']} whose bus moved {bus:.1f} GB/s in the same run, "
        f"{first.raw['nbytes'] / 1e9:.0f} GB of bf16 in tmpfs, every chunk checked: "
        f"{first.gbps:.1f} GB/s in the first restore of a fresh process, {again.gbps:.1f} "
        f"afterwards; the best other loader in that run {others['first']:.1f} and "
        f"{others['again']:.1f}, unchecked."
    )


def _subject(found: LineRate) -> str:
    """Say what was moved."""
    counts = " and ".join(f"{n:,}" for n in sorted({row.raw["tensors"] for row in found.rows}))
    moved = max((row.raw["nbytes"] for row in found.rows), default=0)
    device = found.raw["settings"]["device"]
    return f"{moved / 1e9:.3f} GB of bf16 in {counts} tensors, device {device}."


def _origin(found: LineRate) -> list[str]:
    """Say where and how results came to be."""
    runs = list(found.runs.values())
    commands = "; ".join(f"`{' '.join(['line_rate.py', *run['command']])}`" for run in runs)
    return [f"Machine: {described(runs[-1]['machine'])}.", f"Commands, on one machine: {commands}."]


def _ceilings(found: LineRate) -> list[Row]:
    return list({(each["case"], each["what"]): each for each in found.ceilings}.values())


def _ways(ceiling: Row) -> str:
    """Say how fast each way was that was tried for a ceiling, or why it was not."""
    return "; ".join(
        f"{way['how']}: {way['reason'] or number(way['gbps'], 2)}" for way in ceiling["detail"]
    )


def _plain(found: LineRate) -> list[Row]:
    return [
        row.raw | {"way": way, "samples_s": times, "gbps": row.raw["nbytes"] / median(times) / 1e9}
        for row in found.rows
        for way, times in row.raw.get("plain_s", {}).items()
    ]


def _loaders(found: LineRate) -> list[Row]:
    """Join the first and the later samples of each loader."""
    rows = []
    for first in found.contenders():
        both = [row for row in (first, found.find(first.raw["case"], "again")) if row]
        loader, setting = first.who
        rows.append(
            {
                "loader": loader,
                "setting": setting,
                "ready": number(first.raw["ready_s"], 2),
                "first": number(first.gbps, 2),
                "best": number(max(row.best_gbps for row in both), 2),
                "identical": all(row.raw["identical"] for row in both),
                "note": first.raw["note"] or "digests checked",
            }
        )
    return rows


def _missing(found: LineRate) -> list[Row]:
    """Say why cases were measured in no run, in the order of the catalogue."""
    raw = found.raw
    known = {row["case"]: row["reason"] for row in raw["rows"] if "reason" in row}
    measured = {row["case"] for row in raw["rows"] if "reason" not in row}
    settings = Settings(tmpfs="", disk="", again=0, processes=0, **raw["settings"])
    reasons: dict[str, list[str]] = {}
    for case in catalogue(settings).values():
        if case.name not in measured and case.action != "ceilings":
            why = known.get(case.name, "left out by the commands")
            reasons.setdefault(why, []).append(f"`{case.name}`")
    return [{"cases": ", ".join(cases), "why": why} for why, cases in reasons.items()]


def _tallies(parity: Row) -> list[Row]:
    return [row | {"why": "; ".join(row["reasons"])} for row in parity["rows"]]


def _samples(row: Any) -> Any:
    return (row.raw if isinstance(row, Measured) else row)["samples_s"]


_TIMES: dict[str, Column] = {
    "median s": lambda row: median_s(_samples(row)),
    "spread s": lambda row: spread_s(_samples(row)),
}
_RATE: dict[str, Column] = {
    "GB/s": lambda row: number(row.gbps, 2),
    "share": lambda row: number(row.share, 2),
}
_CASE: dict[str, Column] = {"case": code("case"), "sample": "what"}
_ENDED: dict[str, Column] = {"route": "route", "identical": "identical"}
SECTIONS = (
    Section(
        "Ceilings",
        _ceilings,
        {
            "place": lambda row: row["case"].partition("/")[2],
            "ceiling": "what",
            "GB/s": lambda row: number(row["gbps"], 2),
            "how": _ways,
        },
    ),
    Section(
        "Restore",
        lambda found: found.of("restore", "unread", "checkpoint", "many"),
        {**_CASE, "tensors": "tensors", **_TIMES, **_RATE, "chunks checked": "chunks_checked"}
        | _ENDED,
    ),
    Section(
        "Freeze",
        lambda found: found.of("freeze", "freeze-many"),
        {**_CASE, **_TIMES, **_RATE, **_ENDED},
    ),
    Section(
        "Plain transfers between the samples",
        _plain,
        {**_CASE, "way": "way", **_TIMES, "GB/s": lambda row: number(row["gbps"], 2)},
    ),
    Section(
        "Memory",
        lambda found: [row.raw | row.raw["memory"] for row in found.rows if row.raw["memory"]],
        {
            "case": code("case"),
            "device MiB": lambda row: number(row["device_nbytes"] / MIB, 0),
            "of torch MiB": lambda row: number(row["torch_nbytes"] / MIB, 0),
            "anonymous host MiB": lambda row: number(row["anonymous_nbytes"] / MIB, 0),
            "machine MiB": lambda row: number(row["machine_nbytes"] / MIB, 0),
            "route": "route",
        },
    ),
    Section(
        "Beside other loaders",
        _loaders,
        {"loader": "loader", "setting": "setting", "ready s": "ready", "first GB/s": "first"}
        | {"best GB/s": "best", "identical": "identical", "notes": "note"},
    ),
    Section(
        "Beside other savers, to tmpfs",
        lambda found: found.of("save"),
        {
            "saver": lambda row: row.parts[2],
            "s": lambda row: number(row.median_s, 2),
            "GB/s": lambda row: number(row.gbps, 2),
            "version": "note",
        },
    ),
)
_MISSING = Section("Not measured", _missing, {"cases": "cases", "why": "why"})
_BACKENDS = Section(
    "",
    _tallies,
    {
        "backend": code("backend"),
        "device": "device",
        "passed": "passed",
        "failed": "failed",
        "skipped": "skipped",
        "why skipped": "why",
    },
)
