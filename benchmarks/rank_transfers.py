"""Ranks of one snapshot that move at once, each in a process and on a device of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from gauges import warm
from loading import load_thaw

Row: TypeAlias = dict[str, Any]
_BUS_NBYTES = 8 << 30
_READERS = 16
_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Moves:
    """What to move: a snapshot with a file for each rank, in memory and on a disk."""

    tmpfs: str
    disk: str | None
    device: str
    ranks: int
    again: int


def together(moves: Moves) -> list[Row]:
    """Move in all ranks at once, step by step; return a row for each step.

    A rank's seconds count from when all had come to the step.
    """
    context = multiprocessing.get_context("spawn")
    barrier, said = context.Barrier(moves.ranks), context.Queue()
    workers = [
        context.Process(target=_work, args=(rank, moves, barrier, said))
        for rank in range(moves.ranks)
    ]
    for each in workers:
        each.start()
    rows: dict[str, Row] = {}
    for _ in workers:
        for step in said.get(timeout=_LIMIT_S):
            row = rows.setdefault(step["way"], {"way": step["way"], "ranks": []})
            row["ranks"].append({key: value for key, value in step.items() if key != "way"})
    for each in workers:
        each.join()
    return [_summed(row) for row in rows.values()]


def _summed(row: Row) -> Row:
    """Add what all ranks moved in the time between the first one's start and the last one's end."""
    ranks = sorted((each for each in row["ranks"] if each["samples"]), key=lambda x: x["rank"])
    rates = []
    for samples in zip(*(each["samples"] for each in ranks), strict=True):
        began, ended = min(s["began"] for s in samples), max(s["ended"] for s in samples)
        rates.append(sum(s["nbytes"] for s in samples) / (ended - began) / 1e9)
    by_rank = [
        {
            "rank": each["rank"],
            "gbps": [s["nbytes"] / (s["ended"] - s["began"]) / 1e9 for s in each["samples"]],
            **{key: value for key, value in each.items() if key not in ("rank", "samples")},
        }
        for each in ranks
    ]
    return {"way": row["way"], "together_gbps": rates, "ranks": by_rank}


def _work(rank: int, moves: Moves, barrier: Any, said: Any) -> None:
    device = torch.device(moves.device, rank) if moves.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    load_thaw()
    steps = []
    for way, alone, count, move in _steps(rank, moves, device):
        samples, more = list[Row](), Row()
        for _ in range(count):
            barrier.wait(_LIMIT_S)
            if alone in (None, rank):
                sample, more = _timed(move, device)
                samples.append(sample)
        steps.append({"way": way, "rank": rank, "samples": samples, **more})
    said.put(steps)


Move: TypeAlias = Callable[[], tuple[int, Row]]
"""Moves bytes; returns how many, and what else there is to say."""


def _steps(
    rank: int, moves: Moves, device: torch.device
) -> Iterator[tuple[str, int | None, int, Move]]:
    """Yield name, the rank that moves alone or None, how often, and the move itself."""
    file = next(Path(moves.tmpfs).glob(f"rank-{rank:05}-of-*.thaw"))
    if device.type == "cuda":
        copy = pinned_copies(device)
        yield "pinned copies, rank 0 alone", 0, moves.again, copy
        yield "pinned copies", None, moves.again, copy
    yield "reads alone, tmpfs", None, moves.again, _reading(file)
    restore = partial(_restore, rank=rank, device=device)
    yield "restore, tmpfs, first", None, 1, partial(restore, moves.tmpfs)
    yield "restore, tmpfs, again", None, moves.again, partial(restore, moves.tmpfs)
    yield "restore, tmpfs, rank 0 alone", 0, moves.again, partial(restore, moves.tmpfs)
    if moves.disk:
        cached = Path(moves.disk, file.name)
        warm(cached)
        yield "reads alone, page-cache", None, moves.again, _reading(cached)
        yield "restore, page-cache, again", None, moves.again, partial(restore, moves.disk)
    yield "restore, tmpfs, checked", None, 1, partial(_checked, moves.tmpfs, rank, device)
    if device.type == "cuda":
        import thaw

        with thaw.pin(moves.tmpfs, device=device, rank=rank) as pinned:
            yield "restore, pinned", None, moves.again, partial(_restore_pinned, pinned, device)


def _timed(move: Move, device: torch.device) -> tuple[Row, Row]:
    began = time.perf_counter()
    nbytes, more = move()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"began": began, "ended": time.perf_counter(), "nbytes": nbytes}, more


def pinned_copies(device: torch.device) -> Move:
    """Copy pinned memory to a device, in large pieces: what its bus moves."""
    from thaw.bench.memory import transfer_buffer

    pinned = transfer_buffer(device)
    there = torch.empty_like(pinned, device=device)
    rounds = _BUS_NBYTES // len(pinned)

    def copy() -> tuple[int, Row]:
        for _ in range(rounds):
            there.copy_(pinned, non_blocking=True)
        torch.cuda.synchronize(device)
        return rounds * len(pinned), {}

    return copy


def _reading(file: Path) -> Move:
    from thaw.bench.disk import read_pieces
    from thaw.bench.memory import PIECE_NBYTES, transfer_buffer

    memory = transfer_buffer(torch.device("cpu"))

    def read() -> tuple[int, Row]:
        fd = os.open(file, os.O_RDONLY)
        try:
            read_pieces(fd, memory, PIECE_NBYTES, _READERS)
            return os.fstat(fd).st_size, {}
        finally:
            os.close(fd)

    return read


def _restore(path: str, *, rank: int, device: torch.device) -> tuple[int, Row]:
    import thaw

    return _told(thaw.restore(path, rank=rank, device=device).report)


def _restore_pinned(pinned: Any, device: torch.device) -> tuple[int, Row]:
    return _told(pinned.restore(device=device).report)


def _checked(path: str, rank: int, device: torch.device) -> tuple[int, Row]:
    """Restore, and compare every tensor with what the reference backend restores."""
    import thaw
    from thaw.bench.identity import identical, scramble

    scramble(thaw.restore(path, rank=rank, device=device).values())
    found = thaw.restore(path, rank=rank, device=device)
    expected = thaw.restore(path, rank=rank, device=device, backend="reference")
    return found.report.nbytes, {"identical": identical(found, expected), "tensors": len(found)}


def _told(report: Any) -> tuple[int, Row]:
    more = {"backend": report.backend, "route": report.route}
    return report.nbytes, more | {"chunks_checked": report.chunks_checked}
