"""Turns what processes answered about sessions into rows of results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from results import Row

PROCESSES, COMPUTED, FROZEN, BESIDE = "processes", "computed", "frozen", "beside"
FIRST, SERVED, BUS, SAME = "first", "served", "bus", "same"
TMPFS, PAGE_CACHE, PINNED = "tmpfs", "page cache", "pinned"
"""Where sessions are when they are loaded."""


def rows_of(shape: str, process: Row) -> list[Row]:
    """Return the rows of what a process measured; what it did not come to has none."""
    said = {key: process[key] for key in ("status", "hung", "wall_s")}
    said |= {key: process[key] for key in ("import_s", "engine_s", "errors") if key in process}
    rows: list[Row] = [{"part": PROCESSES, "case": process["name"], "shape": shape} | said]
    for part, case, value in _measured(process["done"]):
        rows.append({"part": part, "case": case, "shape": shape} | value)
    return rows


def _measured(done: Sequence[Row]) -> Iterator[tuple[str, str, Row]]:
    for each in done:
        value = each["value"]
        if each["action"] == "compute":
            yield COMPUTED, _length(value), value
        elif each["action"] == "freeze":
            yield FROZEN, _length(value), value
        elif each["action"] == "beside":
            for row in value:
                yield BESIDE, row["name"], {k: row[k] for k in row if k != "name"}
        elif each["action"] == "first":
            yield FIRST, TMPFS, value
        elif each["action"] == "serve":
            yield SERVED, value["place"], {k: value[k] for k in value if k != "place"}
        elif each["action"] == "bus":
            yield BUS, "pinned copies", value


def _length(value: Row) -> str:
    return f"{value['tokens']:,} tokens"


def same_rows(shape: str, engine: Row, froze: Row, restored: Row) -> list[Row]:
    """Say for each length whether both processes decoded the same; a failure is a row too."""
    how = {key: engine[key] for key in sorted(engine) if key not in _PLACES}
    made: Row = {"part": SAME, "case": shape, "shape": shape, "engine": how}
    rows = []
    for expected in _values(froze, "from_cache"):
        tokens = expected["tokens"]
        if found := _values(restored, "from_session", tokens):
            row = made | _compared(expected, found)
            for one in _values(froze, "from_prefill", tokens):
                for other in _values(restored, "from_prefill", tokens):
                    row["prefill_equal"] = _decoded(one) == _decoded(other)
            for other in _values(froze, "behind_other", tokens):
                row["counts"] = _decoded(other) != _decoded(expected)
            for again in _values(restored, "freeze_again", tokens):
                row |= {key: again[key] for key in ("tensors", "differ")}
            rows.append(row | {"passed": _passed(row)})
    if any(each["status"] for each in (froze, restored)) or not rows:
        errors = [said for each in (froze, restored) for said in each.get("errors", ())]
        why = errors[0] if errors else "the process did not come to the end"
        rows.append(made | {"passed": False, "error": why})
    return rows


_PLACES = ("model", "kv_transfer_config")


def _values(process: Row, action: str, tokens: int | None = None) -> list[Row]:
    """Return what came of an action, of one length if that is given."""
    found = [each["value"] for each in process["done"] if each["action"] == action]
    return [value for value in found if tokens in (None, value["tokens"])]


def _compared(expected: Row, found: Sequence[Row]) -> Row:
    sha256 = hashlib.sha256(json.dumps(_decoded(expected)).encode()).hexdigest()
    return {
        "tokens": expected["tokens"],
        "decoded_tokens": len(expected["token_ids"]),
        "distinct_tokens": len(set(expected["token_ids"])),
        "decoded_sha256": sha256,
        "tokens_equal": all(each["token_ids"] == expected["token_ids"] for each in found),
        "logprobs_equal": all(_decoded(each) == _decoded(expected) for each in found),
    }


def _decoded(value: Row) -> list[Any]:
    return [value["token_ids"], value["logprobs"]]


def _passed(row: Row) -> bool:
    return bool(row["logprobs_equal"] and row.get("counts", True) and not row.get("differ"))
