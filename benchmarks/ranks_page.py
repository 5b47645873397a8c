"""Make benchmarks/two_gpus.md from results/two_gpus.json alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from tables import described, table, yes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "two_gpus.json"
Row: TypeAlias = Mapping[str, Any]

_REACH = 0.80
_FAULT_S = 30
_MOST = 200
_CEILING, _READS = "pinned copies", "reads alone, tmpfs"
_CHECKED = "restore, tmpfs, checked"
_RESTORES = (
    *("restore, tmpfs, first", "restore, tmpfs, again"),
    *("restore, page-cache, again", "restore, pinned"),
)
_INTRO = """\
vLLM with tensor parallelism over two GPUs: every rank has a file of its own and restores it by
itself. Each engine runs in fresh processes. GB = 10^9 bytes."""
_AT_ONCE = """\
Both ranks begin together, without vLLM, digests checked. *Together* is what both moved between the
start of the first and the end of the last. *Pinned copies* are the ceiling of the two buses, *reads
alone* what 16 threads a rank read from the same files into host memory, at once, too: from files
the processors are the limit, not the buses."""
_LARGE = """\
*Loader* is the slowest rank's time in the loader, *beyond dummy* what starting the engine took more
than with dummy weights. The first load after a file was written is slower than later ones: when a
page of tmpfs is read for the first time, the kernel moves it to the list of active pages, one by
one and under a lock. It is so with any reader ([notes.md](notes.md))."""


def files(results: Path = RESULTS, folder: Path = HERE) -> dict[Path, str]:
    """Return the page by path; nothing where nothing was measured."""
    if not results.exists():
        return {}
    return {folder / "two_gpus.md": page(json.loads(results.read_text()))}


def page(raw: Row) -> str:
    facts = described(raw["machine"] | raw["versions"])
    parts = [
        "# Two ranks on two GPUs",
        "",
        "Made by `benchmarks/make_pages.py` from the raw results; do not edit.",
        "",
        _INTRO,
        "Raw results: [results/two_gpus.json](results/two_gpus.json), made by `ranks.py`.",
        f"Machine: {facts}.",
        "",
        *_section("Decoding beside the default loader", _decoding(raw.get("decoding", []))),
        *_section("Both ranks at once", _together({row["way"]: row for row in raw["together"]})),
        *_section("A model that fills both GPUs", _large(raw.get("large", []))),
        *_section("What fails", _faults(raw.get("faults", []))),
    ]
    return "\n".join(parts)


def _section(title: str, lines: Iterator[str]) -> list[str]:
    found = list(lines)
    return [f"## {title}", "", *found, *([""] if found[-1] else [])]


def _decoding(rows: list[Row]) -> Iterator[str]:
    yield "| model | snapshot | tensors | GB | tokens and logprobs equal | every tensor compared |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if "error" in row:
            yield f"| {row['name']} | {row['kind']} | | | **failed**: {row['error']} | |"
            continue
        held = row["snapshot"]
        same = f"yes, {row['decoded_tokens']}" if row["logprobs_equal"] else "**no**"
        found = "equal" if not row["differences"] else f"**{len(row['differences'])} differ**"
        yield (
            f"| {row['name']} | {row['kind']} | {held['tensors']:,} | {held['nbytes'] / 1e9:.2f} "
            f"| {same} | {found} |"
        )


def _together(ways: Mapping[str, Row]) -> Iterator[str]:
    yield _AT_ONCE
    yield ""
    ceiling = median(ways[_CEILING]["together_gbps"])
    head = ("what", "together GB/s", "spread", "of the buses", "rank by rank GB/s", "path")
    yield from table(head, (_moves(w, row, ceiling) for w, row in ways.items() if w != _CHECKED))
    yield from _reached(ways, ceiling)
    checked = ways[_CHECKED]["ranks"]
    same = "identical" if all(rank["identical"] for rank in checked) else "**different**"
    yield f"Every tensor of both ranks, beside what the reference backend restores: {same}."


def _moves(way: str, row: Row, ceiling: float) -> tuple[object, ...]:
    rates, ranks = row["together_gbps"], row["ranks"]
    spread = f"{min(rates):.1f} to {max(rates):.1f}"
    each = " and ".join(f"{median(rank['gbps']):.1f}" for rank in ranks)
    found = f"{median(rates):.1f}", spread, f"{median(rates) / ceiling:.2f}", each
    return way, *found, ranks[0].get("path_ran", "")


def _reached(ways: Mapping[str, Row], ceiling: float) -> list[str]:
    reads = median(ways[_READS]["together_gbps"])
    rates = {way: median(ways[way]["together_gbps"]) for way in _RESTORES if way in ways}
    head = (f"figure to reach: {_REACH:.2f} of the buses", "found", "reached", "of reads alone")
    rows = (
        (
            way,
            f"{rate / ceiling:.2f}",
            yes(rate >= _REACH * ceiling),
            "" if "pinned" in way else f"{rate / reads:.2f}",
        )
        for way, rate in rates.items()
    )
    return table(head, rows)


_LOADED = ("model", "loader", "GB", "loader s", "GB/s", "`LLM()` s", "beyond dummy s", "tokens")


def _large(rows: list[Row]) -> Iterator[str]:
    yield _LARGE
    yield ""
    dummy = next(row["engine_s"] for row in rows if row["name"] == "dummy")
    nbytes = frozen_nbytes(rows)
    yield from table(_LOADED, (_loaded(row, nbytes, dummy) for row in rows))
    cold, pinned = restores(rows)
    actions = {
        "freeze to tmpfs": _actions(rows, "freeze"),
        "restore in place from tmpfs": cold,
        "pin": _actions(rows, "pin"),
        "restore in place from pinned memory": pinned,
    }
    moved = (_moved(what, done, nbytes) for what, done in actions.items())
    yield from table(("action on the live engine", "s", "GB/s"), moved)
    differing = sum(len(each["value"]["differences"]) for each in _actions(rows, "verify"))
    compared = _actions(rows, "verify")[0]["value"]["tensors"]
    yield f"Compared in place with the snapshot: {compared:,} tensors, {differing} differ."


def frozen_nbytes(rows: list[Row]) -> int:
    """Return the size of the large model's snapshot."""
    return int(_actions(rows, "freeze")[0]["value"]["nbytes"])


def weights_s(row: Row) -> float:
    """Return how long the slowest rank's loader took."""
    # The first lines are of the start; a rank of the default loader may say nothing.
    return float(max(row["weights_s"][: None if row["name"] == "default" else 2]))


def restores(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the restores in place from the file, and those once it was pinned."""
    done = next(row["done"] for row in rows if row["name"] == "thaw, again")
    pinned = [each["action"] for each in done].index("pin")
    return _only(done[:pinned], "restore"), _only(done[pinned:], "restore")


def _loaded(row: Row, nbytes: int, dummy: float) -> tuple[object, ...]:
    name, engine_s = row["name"], row["engine_s"]
    shown = [row["model"], name, f"{nbytes / 1e9:.1f}"]
    if name == "dummy":
        return *shown, "", "", f"{engine_s:.1f}", "", ""
    weights = weights_s(row)
    same = {each["equal"] for each in _only(row["done"], "decode")}
    tokens = "first decoded" if name == "default" else "equal" if same == {True} else "**differ**"
    rates = [f"{weights:.2f}", f"{nbytes / weights / 1e9:.1f}", f"{engine_s:.1f}"]
    return *shown, *rates, f"{engine_s - dummy:.1f}", tokens


def _moved(what: str, actions: list[Row], nbytes: int) -> tuple[object, ...]:
    elapsed_s = median(each["elapsed_s"] for each in actions)
    return what, f"{elapsed_s:.2f}", f"{nbytes / elapsed_s / 1e9:.1f}"


def _actions(rows: list[Row], name: str) -> list[Row]:
    return [each for row in rows for each in _only(row["done"], name)]


def _only(done: list[Row], name: str) -> list[Row]:
    return [each for each in done if each["action"] == name]


def _faults(rows: list[Row]) -> Iterator[str]:
    yield f"Seconds from its first word in the log until the process ended: at most {_FAULT_S}."
    yield ""
    yield from table(("fault", "s", "ended", "what was said"), map(_fault, rows))


def _fault(row: Row) -> tuple[object, ...]:
    ended = "hung" if row["hung"] else f"status {row['status']}"
    said = row["sign"][0] if row["sign"] else "**nothing**"
    passed = "" if row["passed"] else " (**not as it should**)"
    until_s = f"{row['sign_to_end_s']:.1f}" if "sign_to_end_s" in row else ""
    return row["name"], until_s, f"{ended}{passed}", _short(said)


def _short(said: str) -> str:
    """Leave out what a log puts before a message, folders, and what only repeats."""
    text = re.sub(r"^\(Worker\S* pid=\d+\) (?:ERROR .*?\] )?", "", said)
    text = re.sub(r"\S*/(?=rank-)", "", text).replace("|", "/")
    return text if len(text) < _MOST else f"... {text[-_MOST:]}"
