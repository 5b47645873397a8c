"""What `thaw bench` does and shows."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from thaw_format import write_file

import thaw
from thaw.bench import plot
from thaw.bench.ceilings import measure_ceilings
from thaw.bench.document import document
from thaw.bench.rows import Row, measure_rows
from thaw.bench.shapes import BenchJSON
from thaw.bench.task import AGAIN, COLD, FREEZE, INTO, PINNED, Task
from thaw.plugins.choosing import select_backend
from thaw.plugins.host import registry

from .bench_table import show
from .exits import FAILED, OK, UNAVAILABLE
from .output import Output

ALL = "all"


@dataclass(frozen=True, slots=True)
class Wish:
    """What to measure, and where the results go."""

    path: Path
    backends: list[str]
    device: str | None
    folder: Path | None
    repeat: int
    rank: int | None
    cold: bool
    nbytes: int
    json_file: Path | None
    plot_file: Path | None


def bench(wish: Wish, output: Output) -> int:
    """Measure, show and write; return the exit code."""
    _check_files(wish)
    task, backends = _task(wish), _backends(wish)
    with _status(output) as notify:
        notify("measuring what this machine can do")
        ceilings = measure_ceilings(
            Path(task.folder), torch.device(task.device), nbytes=wish.nbytes, repeat=task.repeat
        )
        rows = measure_rows(task, backends, ceilings, notify=notify)
    found = document(task, ceilings, rows)
    _write(found, wish)
    output.emit(found, lambda console: show(console, found))
    return _status_of(rows)


def _task(wish: Wish) -> Task:
    """Say what to do, after a look at the snapshot: a wrong path should be known at once."""
    with thaw.open(wish.path, rank=wish.rank) as snapshot:
        beside = snapshot.sources[0].path.parent if snapshot.sources else wish.path.parent
    device = _device(wish.device)
    operations = [AGAIN, INTO, *([PINNED] if device.type == "cuda" else []), FREEZE]
    return Task(
        path=str(wish.path),
        backend="",
        device=str(device),
        folder=str(wish.folder or beside),
        repeat=wish.repeat,
        rank=wish.rank,
        operations=(*operations, *([COLD] if wish.cold else [])),
    )


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise typer.BadParameter(f"{name!r} is no device", param_hint="--device") from None
    if device.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"give cpu or cuda, not {name!r}", param_hint="--device")
    return device


def _backends(wish: Wish) -> list[str]:
    """Name the backends; one that is asked for by name must be available."""
    device, known = _device(wish.device), registry()
    found = []
    for name in wish.backends:
        if name == ALL:
            found += [*known.backends, *(each.name for each in known.broken)]
        else:
            found.append(select_backend(name, "read", device, wish.path).name)
    return list(dict.fromkeys(found))


def _check_files(wish: Wish) -> None:
    """Find out before the measurement what would spoil its end."""
    for file in (wish.json_file, wish.plot_file):
        if file and not file.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
        if file and file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if wish.plot_file is None:
        return
    if wish.plot_file.suffix not in plot.SUFFIXES:
        known = " or ".join(plot.SUFFIXES)
        raise typer.BadParameter(f"its name must end in {known}", param_hint="--plot")
    if not plot.can_draw():
        raise typer.BadParameter(plot.NEEDED, param_hint="--plot")


def _write(found: BenchJSON, wish: Wish) -> None:
    if wish.json_file:
        write_file(wish.json_file, (json.dumps(found, indent=1) + "\n").encode())
    if wish.plot_file:
        plot.draw(found, wish.plot_file)


def _status_of(rows: tuple[Row, ...]) -> int:
    if any(row.failed for row in rows):
        return FAILED
    return OK if any(row.available for row in rows) else UNAVAILABLE


@contextmanager
def _status(output: Output) -> Iterator[Callable[[str], None]]:
    """Say what is measured, if standard error is a terminal."""
    if not output.shows_progress:
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
