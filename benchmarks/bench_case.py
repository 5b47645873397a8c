"""A case of the line-rate benchmark under way, in a fresh process: its clock, checks and rows."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from cases import Case, Settings
from llama import problems, total_nbytes
from loading import load_thaw

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Times: TypeAlias = dict[str, list[float]]
"""Seconds for as many bytes as the case has, by way."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a case.

    Attributes:
        what: "first" in the process, "again", "into" tensors that are there, "pin", "peak".
        identical: whether every tensor was found bit-identical after every sample; None where
            no tensor was moved.
        ready_s: how long imports took before the clock started.
        plain_s: how long plain writes (or reads past the page cache) of as many bytes took between
            the samples, by way; or restores of `.thaw` without digests.
        memory: peaks beyond what was there and what was asked for, in bytes.
    """

    case: str
    what: str
    samples_s: tuple[float, ...]
    nbytes: int
    tensors: int
    identical: bool | None = None
    route: str = ""
    chunks_checked: int | None = None
    ceiling: str | None = None
    ready_s: float = 0.0
    resident_share: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    note: str = ""
    plain_s: Times = field(default_factory=dict)


class Bench:
    """A case under way: its settings, where its rows go, and the clock."""

    def __init__(self, case: Case, settings: Settings, rows: Path) -> None:
        self.case, self.settings, self.device = case, settings, settings.where()
        self.path = settings.path(case.file, case.place)
        self.shapes = settings.shapes(case.file)
        self.again = settings.again if case.again is None else case.again
        self.ready_s, self._rows, self._problems = 0.0, rows, list[str]()

    def start(self, *modules: str) -> None:
        """Start the device, then import what the case needs."""
        if self.device.type == "cuda":
            torch.cuda.init()
            torch.zeros(1, device=self.device)
            torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        for module in modules:
            importlib.import_module(module)
        if "thaw" in modules:
            # Which is what importing a peer does.
            load_thaw()
        self.ready_s = time.perf_counter() - began

    def row(self, what: str, samples_s: list[float], **details: Any) -> Row:
        """Make a row of what has been timed and checked since the last one."""
        found, self._problems = self._problems, []
        for problem in found[:5]:
            print(problem, file=sys.stderr)
        nbytes, tensors = total_nbytes(self.shapes), len(self.shapes)
        made = Row(self.case.name, what, tuple(samples_s), nbytes, tensors, not found)
        return replace(made, ceiling=self.case.ceiling, ready_s=self.ready_s, **details)

    def emit(self, row: Row) -> None:
        self._emit(asdict(row))

    def emit_ceilings(self, ceilings: list[dict[str, Any]]) -> None:
        for each in ceilings:
            found = {"what": each["name"], "gbps": each["gbps"], "detail": each["detail"]}
            self._emit({"case": self.case.name} | found)

    def _emit(self, row: dict[str, Any]) -> None:
        with self._rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def timed(self, action: Callable[[], Any]) -> tuple[Any, float]:
        """Run an action until the device is done."""
        self._synchronize()
        began = time.perf_counter()
        result = action()
        self._synchronize()
        return result, time.perf_counter() - began

    def check(self, found: Tensors) -> None:
        """Compare with what the seed gives."""
        self._problems += problems(found, self.shapes, self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
