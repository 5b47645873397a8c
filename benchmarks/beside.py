"""Find how much a stream that computes is held up by transfers beside it.

    python benchmarks/beside.py --out FILE      measures; writes JSON
    python benchmarks/make_pages.py             makes the page from results/beside.json

One stream runs short kernels, a few always queued, as an engine does that decodes. Meanwhile this
thread restores and freezes on another. *step*: from one kernel's end to the next one's. *alone*:
without transfers. A backend that waits for all of the device holds nothing up, but waits for ever.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch

import thaw
from gauges import describe_machine
from llama import allocate, llama, make
from results import Figure, Row, at_most, write_results

BACKENDS = ("native", "cupy", "gds-compat", "reference")
MOST = 2.0
"""How many times as long as the median alone the longest step may take."""
QUEUED = (8, 256)
"""How many kernels are queued ahead: few feel what holds up their host thread too, many do not."""
_KERNEL_CYCLES = 2_000_000


class Decoding:
    """Runs kernels on a stream of its own while the block runs.

    Attributes:
        steps_s: how long each took.
    """

    def __init__(self, device: torch.device, queued: int) -> None:
        self._device, self._queued, self._over = device, queued, threading.Event()
        self.steps_s: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        stream, ends = torch.cuda.Stream(self._device), deque[torch.cuda.Event]()
        with torch.cuda.stream(stream):
            while not self._over.is_set() or len(ends) > 1:
                if not self._over.is_set():
                    torch.cuda._sleep(_KERNEL_CYCLES)
                    ends.append(torch.cuda.Event(enable_timing=True))
                    ends[-1].record()
                if len(ends) > self._queued or self._over.is_set():
                    before = ends.popleft()
                    ends[0].synchronize()
                    self.steps_s.append(before.elapsed_time(ends[0]) / 1e3)

    def __enter__(self) -> Self:
        self._thread.start()
        time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def beside(device: torch.device, action: Callable[[], Any], times: int) -> Row:
    """Do something so many times, alone and beside kernels; time both."""
    alone_s, beside_s, longest_step_s = [], [], []
    for _ in range(times):
        alone_s.append(_timed(action))
    for queued in QUEUED:
        with Decoding(device, queued) as decoding:
            for _ in range(times):
                beside_s.append(_timed(action))
        longest_step_s.append(max(decoding.steps_s))
    return {"alone_s": alone_s, "beside_s": beside_s, "longest_step_s": longest_step_s}


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    device, shapes = torch.device("cuda", 0), llama(args.nbytes)
    with Decoding(device, QUEUED[0]) as decoding:
        time.sleep(1)
    step_s, longest_s = median(decoding.steps_s), max(decoding.steps_s)
    rows: list[Row] = [{"case": "alone", "step_s": step_s, "longest_step_s": [longest_s]}]
    tensors, into, path = make(shapes, device), allocate(shapes, device), folder / "a.thaw"
    thaw.freeze(tensors, path)
    for name in args.backends:
        actions: dict[str, Callable[[], Any]] = {
            "restore": partial(thaw.restore, path, into=into, backend=name),
            "freeze": partial(thaw.freeze, tensors, folder / "b.thaw", backend=name),
        }
        for what, action in actions.items():
            action()
            try:
                row = {"case": f"{what}/{name}"} | beside(device, action, args.times)
            except thaw.BackendError as error:
                row = {"case": f"{what}/{name}", "reason": str(error)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def figures(rows: list[Row]) -> list[Figure]:
    """Say of each transfer how long the longest step beside it took."""
    step_s, name = rows[0]["step_s"], "longest step of a stream beside"
    return [
        at_most(
            f"{name} {row['case']}, {queued} queued",
            MOST,
            "times the median alone",
            round(value / step_s, 2),
        )
        for row in rows
        if "alone_s" in row
        for queued, value in zip(QUEUED, row["longest_step_s"], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", help="what to say was measured, where git is not at hand")
    parser.add_argument("--nbytes", type=int, default=2 << 30)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--backends", nargs="*", default=BACKENDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="thaw-beside-") as folder:
        rows = measure(args, Path(folder))
    machine = describe_machine(torch.device("cuda", 0), args.commit)
    found = figures(rows)
    write_results(args.out, machine, rows, found)
    for figure in found:
        print(f"{figure.name}: {figure.found}")


if __name__ == "__main__":
    main()
