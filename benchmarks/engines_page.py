"""The page of vLLM's engines: what its sections say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from engines_results import SHAPE, Shape, outcomes, shapes
from pages import (
    Section,
    code,
    escaped,
    figures,
    median_s,
    number,
    origin,
    page,
    render,
    spread_s,
    yes,
)
from results import MIB, Row, part_of

FILES = (
    *("engines.json", "engine_modes.json", "engine_figures.json", "engine_figures_more.json"),
    *("engine_figures_phi.json", "engine_figures_gemma.json"),
    *("engines_more.json", "engines_h200.json", "engines_cpu.json"),
)
_PEERS = ("fastsafetensors", "instanttensor", "sharded_state")
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


def make(found: Mapping[str, Row]) -> str:
    """Return the page."""
    rows = [row for each in found.values() for row in each["rows"]]
    starts = shapes(part_of(rows, "starts"))
    lines = [
        *_decoding(list(found.values())),
        *render([_MODES], rows),
        *figures(found),
        *render([_STARTS], starts),
        *(line for shape in starts for line in _of_shape(shape)),
    ]
    origins = [f"- {origin(name, each)}" for name, each in found.items()]
    return page("vLLM's engines with thaw", ["", *origins], lines)


def headline(found: Row) -> str:
    """Say in a sentence how fast the main model loads."""
    shape = Shape(SHAPE, part_of(found["rows"], "starts"))
    seconds = {way: shape.median(way, "weights_s") for way in ("default", "thaw/tmpfs", *_PEERS)}
    peers = {way: value for way in _PEERS if (value := seconds[way]) is not None}
    best = min(peers, key=lambda way: peers[way])
    hot = shape.median("hot/pinned", "samples_s")
    return (
        f"On such a GPU vLLM {found['versions']['vllm']} loads {SHAPE} (random weights) from "
        f"tmpfs, files read once before, in {seconds['default']:.2f} s by default, in "
        f"{peers[best]:.2f} s with {best} and in "
        f"{seconds['thaw/tmpfs']:.2f} s with thaw, which swaps the weights of a live engine from "
        f"pinned memory in {hot:.2f} s."
    )


def _decoding(files: Sequence[Row]) -> list[str]:
    """Tabulate comparisons: a line for each model and kind, a column for each place."""
    found = outcomes(files)
    places = sorted({column for each in found.values() for column in each})
    rows = [
        {"model": name, "kind": kind} | {str(at): _outcome(each.get(at, [])) for at in places}
        for (name, kind), each in found.items()
    ]
    title = "Decoding, beside the default loader"
    section = Section(title, lambda each: each, text=DECODING)
    failures = [
        f"- {name}, {kind}, {column}: {escaped(said)[:300]}"
        for (name, kind), each in found.items()
        for column, compared in each.items()
        for row in compared
        if (said := row.get("error") or "; ".join(row["differences"][:3]))
    ]
    return [*render([section], rows), *failures, *([""] if failures else [])]


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


def _ends(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield what each step of each mode came to."""
    for row in part_of(rows, "modes"):
        if "error" in row:
            yield row | {"what": "", "ended": f"**failed**: {row['error'][:300]}"}
        for what, good in row.get("found", {}).items():
            yield row | {"what": what, "ended": good}


def _of_shape(shape: Shape) -> list[str]:
    failures = [
        f"- `{way}` failed: {escaped(error)[:300]}"
        for way in dict.fromkeys(row["case"] for row in shape.rows)
        if (error := shape.error(way))
    ]
    lines = [f"### {shape.name}", "", *render(_SHAPE, shape)]
    return [*lines, *failures, *([""] if failures else [])]


def _ways(shape: Shape) -> list[Row]:
    """Say how engines started; sampling memory costs time, so not of those that did."""
    sampled = {row["case"] for row in shape.rows if "sampled_extra" in row}
    rows = []
    for way in (each for each in shape.ways("engine_s") if each not in sampled):
        weights_s, starts = shape.median(way, "weights_s"), shape.values(way, "engine_s")
        beyond = None if way == "dummy" else shape.beyond_dummy(way)
        extra = shape.median(way, "torch_extra_nbytes")
        rows.append(
            {
                "way": f"`{way}`",
                "starts": len(starts),
                "weights s": number(weights_s, 3),
                "GB/s": number(shape.gbps(weights_s), 1),
                "load_model s": number(shape.median(way, "load_model_s"), 3),
                "LLM() s": median_s(starts),
                "spread s": spread_s(starts),
                "beyond dummy s": number(beyond, 2),
                "extra MiB": number(None if extra is None else extra / MIB, 0),
                "equal": "**failed**" if shape.error(way) else yes(shape.is_equal(way)),
            }
        )
    return rows


def _hot(shape: Shape) -> list[Row]:
    rows = []
    for way in (each for each in shape.ways("moving_s") if each.startswith("hot/")):
        samples = shape.values(way, "samples_s")
        rows.append(
            {
                "from": way.removeprefix("hot/"),
                "restores": len(samples),
                "median s": median_s(samples),
                "spread s": spread_s(samples),
                "moving s": number(shape.median(way, "moving_s"), 3),
                "GB/s": number(shape.gbps(shape.median(way, "samples_s")), 1),
                "pinning s": number(shape.median(way, "pinning_s"), 2),
                "equal": shape.is_equal(way),
            }
        )
    return rows


def _freezes(shape: Shape) -> list[Row]:
    samples = {"thaw": shape.values("freeze/tmpfs", "samples_s")} | shape.plain_s()
    return [
        {"way": way, "times": len(times), "median s": median_s(times)}
        | {"spread s": spread_s(times), "GB/s": number(shape.gbps(median(times)), 2)}
        for way, times in samples.items()
        if times
    ]


def _summary(shape: Shape) -> Row:
    default, thaw = (shape.median(way, "weights_s") for way in ("default", "thaw/tmpfs"))
    return {
        "model": shape.name,
        "GB": number(shape.nbytes and shape.nbytes / 1e9, 2),
        "default weights s": number(default, 3),
        "thaw weights s": number(thaw, 3),
        "times as fast": number(default / thaw if default and thaw else None, 1),
        "thaw GB/s": number(shape.gbps(thaw), 1),
        "default beyond dummy s": number(shape.beyond_dummy("default"), 2),
        "thaw beyond dummy s": number(shape.beyond_dummy("thaw/tmpfs"), 2),
    }


_MODES = Section(
    "CUDA graphs and sleep mode",
    _ends,
    {
        "mode": "case",
        "arguments of `LLM`": lambda row: f"`{json.dumps(row['engine'])}`",
        "what": "what",
        "tokens": "tokens",
        "as it must be": "ended",
    },
    MODES,
)
_STARTS = Section(
    "Starts of engines",
    lambda starts: map(_summary, starts),
    text=STARTS,
)
_SHAPE = (
    Section(
        "",
        _ways,
    ),
    Section(
        "",
        _hot,
        text="Hot restores, into a live engine:",
    ),
    Section(
        "",
        _freezes,
        text="Freezes of a live engine to tmpfs, and plain writes of as many bytes between them:",
    ),
    Section(
        "",
        lambda shape: [row | row["sampled_extra"] for row in shape.rows if "sampled_extra" in row],
        {
            "way": code("case"),
            "device MiB": lambda row: number(row["device_nbytes"] / MIB, 0),
            "of torch MiB": lambda row: number(row["torch_nbytes"] / MIB, 0),
            "anonymous host MiB": lambda row: number(row["anonymous_nbytes"] / MIB, 0),
            "machine MiB": lambda row: number(row["machine_nbytes"] / MIB, 0),
        },
        "Memory while an engine loads, beyond the weights:",
    ),
)
