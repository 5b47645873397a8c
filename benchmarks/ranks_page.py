"""Make benchmarks/two_gpus.md from results/two_gpus.json alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "two_gpus.json"
Row: TypeAlias = Mapping[str, Any]

_REACH = 0.80
_FAULT_S = 30
_MOST = 200
_CEILING, _READS = "pinned copies", "reads alone, tmpfs"
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
    facts = ", ".join(f"{key} {value}" for key, value in (raw["machine"] | raw["versions"]).items())
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
    return [f"## {title}", "", *lines, ""]


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
    yield "| what | together GB/s | spread | of the buses | rank by rank GB/s | path |"
    yield "|---|---|---|---|---|---|"
    ceiling = median(ways[_CEILING]["together_gbps"])
    for way, row in ways.items():
        if "checked" in way:
            continue
        rates, ranks = row["together_gbps"], row["ranks"]
        each = " and ".join(f"{median(rank['gbps']):.1f}" for rank in ranks)
        yield (
            f"| {way} | {median(rates):.1f} | {min(rates):.1f} to {max(rates):.1f} "
            f"| {median(rates) / ceiling:.2f} | {each} | {ranks[0].get('path_ran', '')} |"
        )
    yield ""
    yield from _reached(ways, ceiling)
    checked = ways["restore, tmpfs, checked"]["ranks"]
    same = "identical" if all(rank["identical"] for rank in checked) else "**different**"
    yield ""
    yield f"Every tensor of both ranks, beside what the reference backend restores: {same}."


def _reached(ways: Mapping[str, Row], ceiling: float) -> Iterator[str]:
    reads = median(ways[_READS]["together_gbps"])
    yield f"| figure to reach: {_REACH:.2f} of the buses | found | reached | of reads alone |"
    yield "|---|---|---|---|"
    for way in (way for way in _RESTORES if way in ways):
        rate = median(ways[way]["together_gbps"])
        reached = "yes" if rate >= _REACH * ceiling else "**no**"
        share = "" if "pinned" in way else f"{rate / reads:.2f}"
        yield f"| {way} | {rate / ceiling:.2f} | {reached} | {share} |"


def _large(rows: list[Row]) -> Iterator[str]:
    yield _LARGE
    yield ""
    yield "| model | loader | GB | loader s | GB/s | `LLM()` s | beyond dummy s | tokens |"
    yield "|---|---|---|---|---|---|---|---|"
    dummy = next(row["engine_s"] for row in rows if row["name"] == "dummy")
    frozen = _actions(rows, "freeze")
    nbytes = frozen[0]["value"]["nbytes"]
    for row in rows:
        yield _loaded(row, nbytes, dummy)
    yield ""
    yield "| action on the live engine | s | GB/s |"
    yield "|---|---|---|"
    yield _moved("freeze to tmpfs", frozen, nbytes)
    hot = next(row["done"] for row in rows if row["name"] == "thaw, again")
    pinned = [each["action"] for each in hot].index("pin")
    yield _moved("restore in place from tmpfs", _only(hot[:pinned], "restore"), nbytes)
    yield _moved("pin", hot[pinned : pinned + 1], nbytes)
    yield _moved("restore in place from pinned memory", _only(hot[pinned:], "restore"), nbytes)
    differing = sum(len(each["value"]["differences"]) for each in _actions(rows, "verify"))
    compared = _actions(rows, "verify")[0]["value"]["tensors"]
    yield ""
    yield f"Compared in place with the snapshot: {compared:,} tensors, {differing} differ."


def _loaded(row: Row, nbytes: int, dummy: float) -> str:
    name, engine_s = row["name"], row["engine_s"]
    shown = [row["model"], name, f"{nbytes / 1e9:.1f}"]
    if name == "dummy":
        return f"| {' | '.join([*shown, '', '', f'{engine_s:.1f}', '', ''])} |"
    # The first lines are of the start; a rank of the default loader may say nothing.
    weights = max(row["weights_s"][: len(row["weights_s"]) if name == "default" else 2])
    same = {each["equal"] for each in _only(row["done"], "decode")}
    tokens = "first decoded" if name == "default" else "equal" if same == {True} else "**differ**"
    rates = [f"{weights:.2f}", f"{nbytes / weights / 1e9:.1f}", f"{engine_s:.1f}"]
    return f"| {' | '.join([*shown, *rates, f'{engine_s - dummy:.1f}', tokens])} |"


def _moved(what: str, actions: list[Row], nbytes: int) -> str:
    elapsed_s = median(each["elapsed_s"] for each in actions)
    return f"| {what} | {elapsed_s:.2f} | {nbytes / elapsed_s / 1e9:.1f} |"


def _actions(rows: list[Row], name: str) -> list[Row]:
    return [each for row in rows for each in _only(row["done"], name)]


def _only(done: list[Row], name: str) -> list[Row]:
    return [each for each in done if each["action"] == name]


def _faults(rows: list[Row]) -> Iterator[str]:
    yield f"Seconds from its first word in the log until the process ended: at most {_FAULT_S}."
    yield ""
    yield "| fault | s | ended | what was said |"
    yield "|---|---|---|---|"
    for row in rows:
        ended = "hung" if row["hung"] else f"status {row['status']}"
        said = row["sign"][0] if row["sign"] else "**nothing**"
        passed = "" if row["passed"] else " (**not as it should**)"
        until_s = f"{row['sign_to_end_s']:.1f}" if "sign_to_end_s" in row else ""
        yield f"| {row['name']} | {until_s} | {ended}{passed} | {_short(said)} |"


def _short(said: str) -> str:
    """Leave out what a log puts before a message, folders, and what only repeats."""
    text = re.sub(r"^\(Worker\S* pid=\d+\) (?:ERROR .*?\] )?", "", said)
    text = re.sub(r"\S*/(?=rank-)", "", text).replace("|", "/")
    return text if len(text) < _MOST else f"... {text[-_MOST:]}"
