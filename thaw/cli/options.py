"""The arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .text import parse_size


def _complete_backend(incomplete: str) -> list[str]:
    import thaw

    known = ("auto", *(each.name for each in thaw.backends() if each.error is None))
    return [name for name in known if name.startswith(incomplete)]


def _complete_format(incomplete: str) -> list[str]:
    import thaw

    known = (each.name for each in thaw.formats() if each.error is None)
    return [name for name in known if name.startswith(incomplete)]


def _size(text: str) -> int:
    nbytes = parse_size(text)
    if nbytes is None:
        raise typer.BadParameter(f"{text!r} is no size; give one like 5GB or 512MiB")
    return nbytes


Subject: TypeAlias = Annotated[
    Path,
    typer.Argument(
        readable=False,
        metavar="PATH",
        help="A snapshot or checkpoint: a file, or a folder of several.",
        show_default=False,
    ),
]
Backend: TypeAlias = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="The backend that moves the bytes; `thaw backends` lists them. "
        "One that is named never gives way to another.",
        autocompletion=_complete_backend,
    ),
]
Format: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="The format to write; `thaw formats` lists them. By default the one that DST's "
        "name ends like.",
        autocompletion=_complete_format,
        show_default=False,
    ),
]
MaxShardSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-shard-size",
        metavar="SIZE",
        parser=_size,
        help="The most bytes of tensors that each file of a folder holds, such as `5GB` or "
        "`512MiB`. By default the files are those of the checkpoint that was frozen, or one.",
        show_default=False,
    ),
]
Names: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--names",
        metavar="GLOB",
        help="Take only tensors whose names fit this shell-style pattern. May be given again.",
        show_default=False,
    ),
]
Rank: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--rank",
        metavar="N",
        min=0,
        help="The rank to take, where the snapshot has several.",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and errors as JSON.")
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress, and no report of what was done.")
]
