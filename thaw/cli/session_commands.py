"""The commands about sessions: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .exits import FAILED
from .options import Json, Quiet
from .output import Output
from .text import parse_size

Folder: TypeAlias = Annotated[
    Path,
    typer.Argument(
        readable=False,
        metavar="FOLDER",
        help="A folder of sessions. By default the one that you are in.",
        show_default=False,
    ),
]


def _limit(text: str) -> int:
    nbytes = 0 if text.strip() == "0" else parse_size(text)
    if nbytes is None:
        raise typer.BadParameter(f"{text!r} is no size; give one like 100GB or 512MiB, or 0")
    return nbytes


def sessions(
    folder: Folder = Path("."),
    strict: Annotated[
        bool, typer.Option("--strict", help="Let the exit code be 1 if a session cannot be used.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the KV sessions of a folder, and what engines each fits.

    Only headers are read. What has the name of a session and cannot be used is listed with the
    reason. `thaw inspect` and `thaw verify` look at one more closely. A folder that is called
    prune is given as ./prune.
    """
    from .sessions import list_sessions

    if not list_sessions(folder, Output(as_json)) and strict:
        raise typer.Exit(FAILED)


def prune_sessions(
    folder: Folder = Path("."),
    *,
    max_bytes: Annotated[
        int,
        typer.Option(
            "--max-bytes",
            metavar="SIZE",
            parser=_limit,
            help="How much the sessions that are left may have, such as `100GB` or `512MiB`; `0` "
            "removes all.",
            show_default=False,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, and say what would be removed.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove KV sessions of a folder, oldest use first, until the others have at most SIZE.

    Engines that have one open go on to read it. What cannot be read as a session is left alone,
    and not counted.
    """
    from .sessions import prune

    prune(folder, max_bytes, Output(as_json, quiet), dry_run=dry_run)
