"""Make benchmarks/engines.md from the raw results of `engines.py` alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engines_results import SHAPE, Column, Row, Shape, figures, outcomes, shapes
from line_rate_results import MIB
from tables import cell, described, seconds, table, yes

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FILES = (
    *("engines.json", "engine_modes.json", "engine_figures.json", "engine_figures_more.json"),
    *("engine_figures_phi.json", "engine_figures_gemma.json"),
    *("engines_more.json", "engines_h200.json", "engines_cpu.json"),
)
NOT_MEASURED = "Not measured yet."
DECODING = """\
Small models with random weights. One fresh process decodes several prompts with vLLM's default
loader and freezes; another loads the snapshot, decodes the same prompts, compares every tensor and,
for a `processed` snapshot, restores into the live engine and decodes again. *equal*: token ids and
logprobs are, to the last bit, and so is every tensor. On the CPU vLLM packs weights into memory of
oneDNN; that is on for `loaded` snapshots, and off for `processed` ones, which could not be made
from it."""
STARTS = """\
Engines of one model start in one process, all ways in turn, so that a change of the machine meets
all of them; rows with a comma came once and stand beside the comparison. Values are medians of the
starts. *weights*: what the loader says it took. *load_model*: all that the worker does to have a
model. *beyond dummy*: how much longer `LLM()` took than with `load_format="dummy"`. *extra*: the
most that torch held on the device meanwhile, beyond what it kept. *equal*: an engine decodes the
tokens and logprobs that the first one with weights did. A snapshot that nobody has read since it
was written loads more slowly the first time ([notes.md](notes.md)): that start is named *just
written*, and of a shape that has none the first start with thaw is such a one."""
MODES = """\
A small Llama in fresh processes: one with the default loader decodes and freezes its live engine,
the next loads that snapshot and decodes after each step; tokens and logprobs must be the same."""


def files(results: Path = RESULTS, folder: Path = HERE) -> dict[Path, str]:
    """Return what the page holds, by path; nothing where nothing was measured."""
    found = {
        name: json.loads((results / name).read_text())
        for name in FILES
        if (results / name).exists()
    }
    return {folder / "engines.md": page(found)} if found else {}


def page(found: Mapping[str, Row]) -> str:
    lines = [
        "# vLLM's engines with thaw",
        "",
        "Made by `benchmarks/make_pages.py` from what `benchmarks/engines.py` wrote; do not edit.",
        "GB = 10^9 bytes, MiB = 2^20 bytes.",
        "",
        *(f"- {_run(name, raw)}" for name, raw in found.items()),
        "",
        *_decoding(list(found.values())),
        *_modes([row for raw in found.values() for row in raw.get("modes", [])]),
        *_figures([row for raw in found.values() for row in raw.get("figures", [])]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _run(name: str, raw: Row) -> str:
    facts = described(raw["machine"] | raw["versions"])
    return f"[results/{name}](results/{name}): {facts}."


def _decoding(raws: Sequence[Row]) -> list[str]:
    found = outcomes(raws)
    columns = sorted({column for each in found.values() for column in each})
    head = ("model", "kind", *map(str, columns))
    lines = ["## Decoding, beside the default loader", "", DECODING, ""]
    if not found:
        return [*lines, NOT_MEASURED, ""]
    rows = [(*key, *(_outcome(each.get(c, [])) for c in columns)) for key, each in found.items()]
    return [*lines, *table(head, rows), *_failures(found)]


def _outcome(rows: Sequence[Row]) -> str:
    """Say how a comparison ended; the worst of them, where it was made again."""
    if not rows:
        return "not run"
    worst = min(rows, key=lambda row: bool(row["passed"]))
    if worst["passed"]:
        return f"equal, {worst['decoded_tokens']} tokens"
    if "error" in worst:
        return "**failed**"
    if not worst["tokens_equal"]:
        return "**other tokens**"
    return "**other tensors**" if worst["logprobs_equal"] else "**other logprobs**"


def _failures(found: Mapping[tuple[str, str], Mapping[Column, Sequence[Row]]]) -> list[str]:
    lines = [
        f"- {name}, {kind}, {column}: {cell(said)[:300]}"
        for (name, kind), each in found.items()
        for column, rows in each.items()
        for row in rows
        if (said := row.get("error") or "; ".join(row["differences"][:3]))
    ]
    return [*lines, ""] if lines else []


def _modes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    said = [
        (row["mode"], f"`{cell(json.dumps(row['engine']))}`", what, row.get("tokens", ""), ended)
        for row in rows
        for what, ended in _ends(row)
    ]
    head = ("mode", "arguments of `LLM`", "what", "tokens", "as it must be")
    return ["## CUDA graphs and sleep mode", "", MODES, "", *table(head, said)]


def _ends(row: Row) -> Iterator[tuple[str, str]]:
    if "error" in row:
        yield "", f"**failed**: {cell(row['error'])[:300]}"
    for what, good in row.get("found", {}).items():
        yield what, yes(good)


def _figures(rows: Sequence[Row]) -> list[str]:
    found = shapes(rows)
    main = next((shape for shape in found if shape.name == SHAPE), Shape(SHAPE, []))
    asked = [(each.what, each.found, yes(each.reached)) for each in figures(main)]
    lines = [
        f"## Figures to reach, {SHAPE}",
        "",
        *table(("figure to reach", "found", "reached"), asked),
        "## Starts of engines",
        "",
        STARTS,
        "",
    ]
    if not found:
        return [*lines, NOT_MEASURED, ""]
    lines += table(_SHAPES, map(_shape_row, found))
    return lines + [line for shape in found for line in _shape(shape)]


_SHAPES = (
    *("model", "GB", "default weights s", "thaw weights s", "times as fast", "thaw GB/s"),
    *("default beyond dummy s", "thaw beyond dummy s"),
)
_WAYS = (
    *("way", "starts", "weights s", "GB/s", "load_model s", "LLM() s", "spread s"),
    *("beyond dummy s", "extra MiB", "equal"),
)
_HOT = ("from", "restores", "median s", "spread s", "moving s", "GB/s", "pinning s", "equal")
_MEMORY = ("way", "device MiB", "of torch MiB", "anonymous host MiB", "machine MiB")


def _shape_row(shape: Shape) -> tuple[str, ...]:
    default, thaw = (shape.median(way, "weights_s") for way in ("default", "thaw/tmpfs"))
    return (
        shape.name,
        _number(shape.nbytes and shape.nbytes / 1e9, 2),
        _number(default, 3),
        _number(thaw, 3),
        _number(default / thaw if default and thaw else None, 1),
        _number(shape.gbps(thaw), 1),
        _number(shape.beyond_dummy("default"), 2),
        _number(shape.beyond_dummy("thaw/tmpfs"), 2),
    )


def _shape(shape: Shape) -> list[str]:
    hot = [way for way in shape.ways("moving_s") if way.startswith("hot/")]
    sampled = [row for row in shape.rows if "sampled_extra" in row]
    # Sampling costs time.
    timed = [way for way in shape.ways("engine_s") if way not in {row["way"] for row in sampled}]
    titled: list[tuple[str, Sequence[str], list[tuple[object, ...]]]] = [
        (f"### {shape.name}", _WAYS, [_way_row(shape, way) for way in timed]),
        ("Hot restores, into a live engine:", _HOT, [_hot_row(shape, way) for way in hot]),
        (
            "Freezes of a live engine to tmpfs, and plain writes of as many bytes between them:",
            ("way", "times", "median s", "spread s", "GB/s"),
            _freeze_rows(shape),
        ),
        (
            "Memory while an engine loads, beyond the weights:",
            _MEMORY,
            [_memory_row(row) for row in sampled],
        ),
    ]
    failures = [
        f"- `{way}` failed: {cell(error)[:300]}"
        for way in dict.fromkeys(row["way"] for row in shape.rows)
        if (error := shape.error(way))
    ]
    lines = [
        line for title, head, rows in titled if rows for line in (title, "", *table(head, rows))
    ]
    return [*lines, *failures, ""] if failures else lines


def _way_row(shape: Shape, way: str) -> tuple[object, ...]:
    weights_s, extra = shape.median(way, "weights_s"), shape.median(way, "torch_extra_nbytes")
    return (
        f"`{way}`",
        len(shape.values(way, "engine_s")),
        _number(weights_s, 3),
        _number(shape.gbps(weights_s), 1),
        _number(shape.median(way, "load_model_s"), 3),
        *seconds(shape.values(way, "engine_s")),
        "" if way == "dummy" else _number(shape.beyond_dummy(way), 2),
        _number(None if extra is None else extra / MIB, 0),
        "**failed**" if shape.error(way) else yes(shape.is_equal(way)),
    )


def _hot_row(shape: Shape, way: str) -> tuple[object, ...]:
    samples = shape.values(way, "samples_s")
    return (
        way.removeprefix("hot/"),
        len(samples),
        *seconds(samples),
        _number(shape.median(way, "moving_s"), 3),
        _number(shape.gbps(shape.median(way, "samples_s")), 1),
        _number(shape.median(way, "pinning_s"), 2),
        yes(shape.is_equal(way)),
    )


def _freeze_rows(shape: Shape) -> list[tuple[object, ...]]:
    samples = {"thaw": shape.values("freeze/tmpfs", "samples_s")} | shape.plain_s()
    return [
        (way, len(times), *seconds(times), _number(shape.gbps(median(times)), 2))
        for way, times in samples.items()
        if times
    ]


def _memory_row(row: Row) -> tuple[object, ...]:
    keys = ("device_nbytes", "torch_nbytes", "anonymous_nbytes", "machine_nbytes")
    extra: dict[str, Any] = row["sampled_extra"]
    return (f"`{row['way']}`", *(_number(extra[key] / MIB, 0) for key in keys))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
