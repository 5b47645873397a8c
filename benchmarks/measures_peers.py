"""What the line-rate benchmark does with other loaders and savers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench_case import Bench, Tensors
from llama import make, spoil, total_nbytes
from peers import PEERS, Job


def peer(bench: Bench) -> None:
    """Load with a peer: the first time, and again."""
    bench.start()
    known = PEERS[bench.case.subject]
    setting = known.settings[bench.case.setting]
    began = time.perf_counter()
    load = setting.prepare(Job(bench.path, bench.device, bench.shapes))
    bench.ready_s = time.perf_counter() - began
    note = f"{known.version()}; {setting.note}" if setting.note else known.version()
    for what, count in (("first", 1), ("again", bench.again)):
        times = []
        for _ in range(count):
            loaded, elapsed_s = bench.timed(load)
            times.append(elapsed_s)
            bench.check(loaded)
            spoil(loaded)
            del loaded
        if times:
            bench.emit(bench.row(what, times, note=note))


def save(bench: Bench) -> None:
    """Save with a peer; what it wrote is checked when it is loaded."""
    bench.start()
    write, tensors = saving(bench.case.subject), make(bench.shapes, bench.device)
    part = bench.path.with_name(f"part-{bench.path.name}")
    _, elapsed_s = bench.timed(lambda: write(tensors, part))
    nbytes, expected = part.stat().st_size, total_nbytes(bench.shapes)
    if nbytes < expected:
        raise RuntimeError(f"it saved {nbytes} bytes of {expected}")
    part.rename(bench.path)
    row = bench.row("first", [elapsed_s], note=PEERS[bench.case.subject].version())
    bench.emit(replace(row, identical=None))


def saving(subject: str) -> Callable[[Tensors, Path], None]:
    save = PEERS[subject].save
    if save is None:
        raise LookupError(f"{subject} does not save")
    return save
