"""Data on standard output, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

import thaw

_T = TypeVar("_T")


def emit(value: _T, as_json: bool, show: Callable[[_T], None], **more: object) -> None:
    """Print a result as JSON, or as people like it."""
    if not as_json:
        show(value)
        return
    if isinstance(value, tuple):
        print(json.dumps([asdict(each) for each in value], default=_plain))
        return
    found: dict[str, Any] = asdict(value) | more  # type: ignore[call-overload]
    if isinstance(value, thaw.VerifyReport | thaw.ConvertReport):
        found["gbps"] = value.gbps
    print(json.dumps(found, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Show bytes moved on standard error, if it is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn(what), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda nbytes: bar.advance(task, nbytes)
