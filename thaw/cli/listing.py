"""What `thaw backends`, `thaw formats` and `thaw version` do and show."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text
from thaw_format.superblock import MAJOR, MINOR

import thaw

from .drawing import columns, plain, say, verdict
from .output import Output
from .shapes import BackendJSON, FormatJSON, VersionJSON


def backends(output: Output) -> None:
    """List the backends, what each could do here, and broken plugins."""
    found: list[BackendJSON] = [
        {
            "name": each.name,
            "distribution": each.distribution,
            "support": {
                device: {
                    "available": s.available,
                    "reason": s.reason,
                    "route": s.route,
                    "path": s.route,
                }
                for device, s in each.support.items()
            },
            "error": each.error,
        }
        for each in thaw.backends()
    ]
    output.emit(found, lambda console: _show_backends(console, found))


def formats(output: Output) -> None:
    """List the formats, and broken plugins."""
    found: list[FormatJSON] = [
        {
            "name": each.name,
            "description": each.description,
            "distribution": each.distribution,
            "suffixes": list(each.suffixes),
            "error": each.error,
        }
        for each in thaw.formats()
    ]
    output.emit(found, lambda console: _show_formats(console, found))


def version(output: Output) -> None:
    """Tell the versions that matter in a report of a problem."""
    found: VersionJSON = {
        "thaw": thaw.__version__,
        "format": f"{MAJOR}.{MINOR}",
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
    }
    output.emit(found, lambda console: _show_version(console, found))


def _show_backends(console: Console, found: Sequence[BackendJSON]) -> None:
    table = columns("backend", "device", "route", "why", "from")
    for each in found:
        name, origin = plain(each["name"], "bold"), plain(each["distribution"], "dim")
        if each["error"] is not None:
            mark = Text.assemble(verdict(console, False), ("broken", "red"))
            table.add_row(name, mark, "", plain(each["error"]), origin)
        for device, support in each["support"].items():
            mark = Text.assemble(verdict(console, support["available"]), device)
            table.add_row(name, mark, plain(support["route"]), plain(support["reason"]), origin)
            name = origin = Text()
    console.print(table)


def _show_formats(console: Console, found: Sequence[FormatJSON]) -> None:
    table = columns("format", "suffix", "what", "from")
    for each in found:
        what = plain(each["description"])
        if each["error"] is not None:
            broken = (plain("broken: ", "red"), plain(each["error"]))
            what = Text.assemble(verdict(console, False), *broken)
        suffixes = plain(" ".join(each["suffixes"]))
        table.add_row(
            plain(each["name"], "bold"), suffixes, what, plain(each["distribution"], "dim")
        )
    console.print(table)


def _show_version(console: Console, found: VersionJSON) -> None:
    for name, number in found.items():
        say(console, f"{name} {number}")
