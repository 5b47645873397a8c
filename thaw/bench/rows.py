"""What every backend reaches on a snapshot, and its share of what this machine could."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

import thaw
from thaw.plugins.host import registry

from .memory import warm
from .task import COLD, FIRST, FREEZE, PIN, PROBE, Sample, Task
from .ways import Ceiling

Notify = Callable[[str], None]
"""Called with what begins now."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a backend reached in one operation, or why it did not.

    Attributes:
        operation: one of those of `thaw.bench.task`; "probe" where the backend is not available.
        route: which way the bytes really went.
        elapsed_s: seconds of each run.
        nbytes: bytes moved by each run.
        identical: whether every run gave the bytes that the reference backend restores; None where
            no bytes were compared.
        ceiling: the name of the ceiling to compare with, or empty.
        share: of that ceiling.
        available: whether the backend can serve the device here.
    """

    backend: str
    device: str
    operation: str
    route: str = ""
    elapsed_s: tuple[float, ...] = ()
    nbytes: int = 0
    identical: bool | None = None
    ceiling: str = ""
    share: float | None = None
    error: str | None = None
    available: bool = True

    @property
    def gbps(self) -> float | None:
        """10^9 bytes a second, of the median."""
        return self.nbytes / median(self.elapsed_s) / 1e9 if self.elapsed_s else None

    @property
    def failed(self) -> bool:
        """Whether it went wrong, though the backend is available."""
        return self.available and (self.error is not None or self.identical is False)


def measure_rows(
    task: Task,
    backends: Sequence[str],
    ceilings: Sequence[Ceiling],
    *,
    notify: Notify = lambda _: None,
) -> tuple[Row, ...]:
    """Measure backends one after the other, each in fresh processes.

    Args:
        task: what to do; its backend is replaced by each, its folder by a new one in it.
        backends: names; those of broken plugins too.
        ceilings: what the shares are of.

    Raises:
        FormatError, MismatchError, OSError: the snapshot cannot be opened.
    """
    with thaw.open(task.path, rank=task.rank) as snapshot:
        files = [source.path for source in snapshot.sources]
    limits = _limits(task, files, ceilings)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix=".thaw-bench-", dir=task.folder) as folder:
        for name in backends:
            each = replace(task, backend=name, folder=folder)
            if (reason := _unavailable(name, task.device)) is not None:
                rows.append(Row(name, task.device, PROBE, error=reason, available=False))
            else:
                rows += _rows(each, files, limits, notify)
    return tuple(rows)


def _unavailable(name: str, device: str) -> str | None:
    for broken in registry().broken:
        if broken.name == name:
            return f"its plugin is broken: {broken.error}"
    support = registry().backends[name].probe(torch.device(device))
    return None if support.available else support.reason


def _limits(task: Task, files: Sequence[Path], ceilings: Sequence[Ceiling]) -> dict[str, Ceiling]:
    """Say which ceiling belongs to which operation; that of the other restores is under ""."""
    known = {each.name: each for each in ceilings}
    wanted = {
        "": "h2d-pinned" if torch.device(task.device).type == "cuda" else "memcpy",
        FREEZE: "write",
    }
    disk = os.stat(task.folder).st_dev
    if all(os.stat(file).st_dev == disk for file in files):
        wanted[COLD] = "read-direct"
    return {operation: known[name] for operation, name in wanted.items() if name in known}


def _rows(
    task: Task, files: Sequence[Path], limits: dict[str, Ceiling], notify: Notify
) -> Iterator[Row]:
    found: dict[str, list[Sample]] = {}
    tasks = [task, *[replace(task, operations=())] * (task.repeat - 1)]
    for number, each in enumerate(tasks, 1):
        for file in files:
            warm(file)
        for sample in run_child(each):
            if sample.began:
                notify(f"{task.backend}: {sample.operation} (process {number} of {len(tasks)})")
            else:
                found.setdefault(sample.operation, []).append(sample)
    for operation, samples in found.items():
        if operation in (COLD, PIN):
            limit = limits.get(operation)
        else:
            limit = limits.get(operation, limits.get(""))
        yield summarize(task, samples, limit)


def summarize(task: Task, samples: Sequence[Sample], limit: Ceiling | None) -> Row:
    """Make a row of the runs of one operation."""
    good = [each for each in samples if each.error is None]
    compared = [each.identical for each in good if each.identical is not None]
    row = Row(
        backend=task.backend,
        device=task.device,
        operation=samples[0].operation,
        route="+".join(dict.fromkeys(each.route for each in good if each.route)),
        elapsed_s=tuple(each.elapsed_s for each in good),
        nbytes=max((each.nbytes for each in good), default=0),
        identical=all(compared) if compared else None,
        ceiling=limit.name if limit else "",
        error=next((each.error for each in samples if each.error is not None), None),
    )
    if limit is None or not limit.gbps or row.gbps is None:
        return row
    return replace(row, share=row.gbps / limit.gbps)


def run_child(task: Task) -> Iterator[Sample]:
    """Run a task in a fresh process; its end is awaited, or brought about, in any case."""
    command = [sys.executable, "-m", "thaw.bench.child", task.to_json()]
    operation = FIRST
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as child:
            assert child.stdout
            try:
                for line in child.stdout:
                    sample = Sample(**json.loads(line))
                    operation = sample.operation
                    yield sample
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            said.seek(0)
            lines = said.read().strip().splitlines() or ["it said nothing"]
            reason = f"the process ended with {child.returncode}: {lines[-1].strip()}"
            yield Sample(operation, error=reason)
