"""The sentences about engines in the project's README, made from raw results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from engines_results import SHAPE, Shape
from ranks_page import frozen_nbytes, restores, weights_s

RESULTS = Path(__file__).parent / "results"
PEERS = ("fastsafetensors", "instanttensor", "sharded_state")


def headlines(folder: Path = RESULTS) -> list[str]:
    """Return a sentence about one GPU and one about two, as far as they were measured."""
    makers = {"engine_figures.json": one_gpu, "two_gpus.json": two_gpus}
    return [
        make(json.loads((folder / name).read_text()))
        for name, make in makers.items()
        if (folder / name).exists()
    ]


def one_gpu(raw: Mapping[str, Any]) -> str:
    shape = Shape(SHAPE, raw["figures"])
    seconds = {way: shape.median(way, "weights_s") for way in ("default", "thaw/tmpfs", *PEERS)}
    peers = {way: found for way in PEERS if (found := seconds[way]) is not None}
    best = min(peers, key=lambda way: peers[way])
    hot = shape.median("hot/pinned", "samples_s")
    return (
        f"On such a GPU vLLM {raw['versions']['vllm']} loads {SHAPE} (random weights) from tmpfs, "
        f"files read once before, in {seconds['default']:.2f} s by default, in "
        f"{peers[best]:.2f} s with {best} and in "
        f"{seconds['thaw/tmpfs']:.2f} s with thaw, which swaps the weights of a live engine from "
        f"pinned memory in {hot:.2f} s."
    )


def two_gpus(raw: Mapping[str, Any]) -> str:
    rows = raw["large"]
    seconds = {row["name"]: weights_s(row) for row in rows if row["name"] != "dummy"}
    swapped = median(each["elapsed_s"] for each in restores(rows)[1])
    return (
        f"On two, {rows[0]['model']} ({frozen_nbytes(rows) / 1e9:.0f} GB) takes "
        f"{seconds['default']:.1f} s by default; with thaw {seconds['thaw, first']:.1f} s when its "
        f"file is read for the first time and {seconds['thaw, again']:.1f} s afterwards, and "
        f"{swapped:.1f} s to swap from pinned memory."
    )
