"""What `thaw freeze`, `thaw restore` and `thaw convert` do and show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text
from thaw_format import FormatError

import thaw
from thaw.plugins.endings import find_ending

from .drawing import plain, say, verdict
from .errors import UnsupportedError
from .output import Output
from .shapes import ConvertJSON
from .text import count, size


@dataclass(frozen=True, slots=True)
class Move:
    """From where to where, and how."""

    source: Path
    destination: Path
    format: str | None
    backend: str
    names: list[str] | None
    rank: int | None = None
    max_shard_nbytes: int | None = None


def move(task: Move, output: Output, *, doing: str, done: str) -> None:
    """Write the tensors of a path to another, and say so."""
    with output.progress(doing, lambda: _total(task)) as progress:
        report = _convert(task, progress)
    document = _document(task, report)
    output.emit(document, lambda console: _show(console, document, done))


def default_format(destination: Path) -> str | None:
    """Name the format of a restored checkpoint whose name ends like no format."""
    return None if find_ending(destination) else "safetensors"


def _convert(task: Move, progress: object) -> thaw.ConvertReport:
    try:
        return thaw.convert(
            task.source,
            task.destination,
            format=task.format,
            backend=task.backend,
            names=task.names,
            rank=task.rank,
            max_shard_nbytes=task.max_shard_nbytes,
            progress=progress,  # type: ignore[arg-type]
        )
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise UnsupportedError(str(error)) from error


def _total(task: Move) -> int | None:
    """Count the bytes that will be reported: read ones and, into a snapshot, written ones."""
    if task.names:
        return None
    with thaw.open(task.source, rank=task.rank) as snapshot:
        return snapshot.nbytes * (2 if _is_into_thaw(task) else 1)


def _is_into_thaw(task: Move) -> bool:
    return task.format == "thaw" or (
        task.format is None and task.destination.name.endswith(".thaw")
    )


def _document(task: Move, report: thaw.ConvertReport) -> ConvertJSON:
    return {
        "source": str(task.source),
        "destination": str(task.destination),
        "source_format": report.source_format,
        "destination_format": report.destination_format,
        "files": [str(file) for file in report.files],
        "tensors": report.tensors,
        "nbytes": report.nbytes,
        "elapsed_s": report.elapsed_s,
        "gbps": report.gbps,
        "backend": report.backend,
    }


def _show(console: Console, found: ConvertJSON, done: str) -> None:
    what = f"{done} {count(found['tensors'], 'tensor')}, {size(found['nbytes'])}, to "
    how = f" in {found['elapsed_s']:.2f} s ({found['gbps']:.2f} GB/s, backend {found['backend']})"
    say(
        console,
        verdict(console, True),
        what,
        plain(found["destination"], "bold"),
        Text(how, "dim"),
    )
    if found["files"] != [found["destination"]]:
        for file in found["files"]:
            say(console, "  ", plain(file))
