"""The page about two GPUs: what its sections say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import median

from engines_results import FAULT_S, bus_gbps
from pages import Section, figures, number, origin, page, render
from results import Row, part_of

FILE = "two_gpus.json"
_MOST = 200
_CHECKED = "restore, tmpfs, checked"
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


def make(found: Row) -> str:
    """Return the page."""
    rows: list[Row] = found["rows"]
    lines = render(SECTIONS[:2], rows)
    if checked := [row for row in rows if row["case"] == _CHECKED]:
        right = all(rank["identical"] for row in checked for rank in row["ranks"])
        same = "identical" if right else "**different**"
        lines += [
            f"Every tensor of both ranks, beside what the reference backend restores: {same}."
        ]
        lines += [""]
    lines += render(SECTIONS[2:4], rows)
    if verified := _actions(part_of(rows, "large"), "verify"):
        differing = sum(len(each["value"]["differences"]) for each in verified)
        compared = verified[0]["value"]["tensors"]
        lines += [f"Compared in place with the snapshot: {compared:,} tensors, {differing} differ."]
        lines += [""]
    lines += render(SECTIONS[4:], rows)
    intro = ["", _INTRO, "", origin(FILE, found)]
    return page("Two ranks on two GPUs", intro, [*figures({FILE: found}), *lines])


def headline(found: Row) -> str:
    """Say in a sentence how a large model loads."""
    rows = part_of(found["rows"], "large")
    seconds = {row["case"]: weights_s(row) for row in rows if row["case"] != "dummy"}
    swapped = median(each["elapsed_s"] for each in restores(rows)[1])
    return (
        f"On two, {rows[0]['model']} ({frozen_nbytes(rows) / 1e9:.0f} GB) takes "
        f"{seconds['default']:.1f} s by default; with thaw {seconds['thaw, first']:.1f} s when its "
        f"file is read for the first time and {seconds['thaw, again']:.1f} s afterwards, and "
        f"{swapped:.1f} s to swap from pinned memory."
    )


def frozen_nbytes(rows: Sequence[Row]) -> int:
    """Return the size of the large model's snapshot."""
    return int(_actions(rows, "freeze")[0]["value"]["nbytes"])


def weights_s(row: Row) -> float:
    """Return how long the slowest rank's loader took."""
    # The first lines are of the start; a rank of the default loader may say nothing.
    return float(max(row["weights_s"][: None if row["case"] == "default" else 2]))


def restores(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the restores in place from the file, and those once it was pinned."""
    done = next(row["done"] for row in rows if row["case"] == "thaw, again")
    pinned = [each["action"] for each in done].index("pin")
    return _only(done[:pinned], "restore"), _only(done[pinned:], "restore")


def _decoding(rows: Sequence[Row]) -> Iterator[Row]:
    for row in part_of(rows, "decoding"):
        held = row.get("snapshot")
        differ = len(row.get("differences", ()))
        same = f"yes, {row.get('decoded_tokens')}" if row.get("logprobs_equal") else "**no**"
        failed = f"**failed**: {row['error']}" if "error" in row else ""
        yield {
            "model": row["case"],
            "snapshot": row["kind"],
            "tensors": held and held["tensors"],
            "GB": number(held and held["nbytes"] / 1e9, 2),
            "tokens and logprobs equal": failed or same,
            "every tensor compared": None
            if failed
            else f"**{differ} differ**"
            if differ
            else "equal",
        }


def _together(rows: Sequence[Row]) -> Iterator[Row]:
    bus = bus_gbps(rows)
    for row in part_of(rows, "together"):
        rates, ranks = row["together_gbps"], row["ranks"]
        if row["case"] != _CHECKED:
            yield {
                "what": row["case"],
                "together GB/s": number(median(rates), 1),
                "spread": f"{min(rates):.1f} to {max(rates):.1f}",
                "of the buses": number(median(rates) / bus if bus else None, 2),
                "rank by rank GB/s": " and ".join(f"{median(each['gbps']):.1f}" for each in ranks),
                "route": ranks[0].get("route"),
            }


def _loaded(rows: Sequence[Row]) -> Iterator[Row]:
    rows = part_of(rows, "large")
    dummy_s = next((row["engine_s"] for row in rows if row["case"] == "dummy"), None)
    for row in rows:
        name, nbytes = row["case"], frozen_nbytes(rows)
        loader_s = None if name == "dummy" else weights_s(row)
        beyond_s = None if loader_s is None or dummy_s is None else row["engine_s"] - dummy_s
        same = {each["equal"] for each in _only(row["done"], "decode")}
        tokens = "equal" if same == {True} else "**differ**"
        yield {
            "model": row["model"],
            "loader": name,
            "GB": number(nbytes / 1e9, 1),
            "loader s": number(loader_s, 2),
            "GB/s": number(nbytes / loader_s / 1e9 if loader_s else None, 1),
            "`LLM()` s": number(row["engine_s"], 1),
            "beyond dummy s": number(beyond_s, 1),
            "tokens": {"dummy": "", "default": "first decoded"}.get(name, tokens),
        }


def _moved(rows: Sequence[Row]) -> Iterator[Row]:
    rows = part_of(rows, "large")
    if not rows:
        return
    cold, pinned = restores(rows)
    actions = {
        "freeze to tmpfs": _actions(rows, "freeze"),
        "restore in place from tmpfs": cold,
        "pin": _actions(rows, "pin"),
        "restore in place from pinned memory": pinned,
    }
    for what, done in actions.items():
        elapsed_s = median(each["elapsed_s"] for each in done)
        rate = number(frozen_nbytes(rows) / elapsed_s / 1e9, 1)
        yield {"action on the live engine": what, "s": number(elapsed_s, 2), "GB/s": rate}


def _faults(rows: Sequence[Row]) -> Iterator[Row]:
    for row in part_of(rows, "faults"):
        ended = "hung" if row["hung"] else f"status {row['status']}"
        yield {
            "fault": row["case"],
            "s": number(row.get("sign_to_end_s"), 1),
            "ended": ended + ("" if row["passed"] else " (**not as it should**)"),
            "what was said": _short(row["sign"][0]) if row["sign"] else "**nothing**",
        }


def _actions(rows: Sequence[Row], name: str) -> list[Row]:
    return [each for row in rows for each in _only(row["done"], name)]


def _only(done: list[Row], name: str) -> list[Row]:
    return [each for each in done if each["action"] == name]


def _short(said: str) -> str:
    """Leave out what a log puts before a message, folders, and what only repeats."""
    text = re.sub(r"^\(Worker\S* pid=\d+\) (?:ERROR .*?\] )?", "", said)
    text = re.sub(r"\S*/(?=rank-)", "", text).replace("|", "/")
    return text if len(text) < _MOST else f"... {text[-_MOST:]}"


SECTIONS = (
    Section("Decoding beside the default loader", _decoding),
    Section("Both ranks at once", _together, text=_AT_ONCE),
    Section("A model that fills both GPUs", _loaded, text=_LARGE),
    Section("", _moved),
    Section(
        "What fails",
        _faults,
        text=f"Seconds from its first word in the log until the process ended: at most {FAULT_S}.",
    ),
)
