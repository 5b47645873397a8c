"""The commands, their options and exit codes."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import thaw

from . import render
from .failures import guarded
from .output import emit, progress_bar
from .table import describe, tensor_table

EPILOG = (
    "Exit codes: 0 done; 1 invalid or mismatched data, or an I/O error; 2 wrong usage; "
    "3 backend unavailable."
)
app = typer.Typer(
    name="thaw",
    help="Freeze the exact bytes of model state to a file, and restore them bit-identical.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Backend = Annotated[str, typer.Option(help="The backend that moves the bytes, or auto.")]
Names = Annotated[
    list[str] | None, typer.Option("--names", help="Only tensors with names like this pattern.")
]
Rank = Annotated[int | None, typer.Option(help="Which rank, where there are several.")]


@app.command(epilog=EPILOG)
def freeze(
    source: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .thaw file to write.")],
    backend: Backend = "auto",
    names: Names = None,
    as_json: Json = False,
) -> None:
    """Freeze a checkpoint to a .thaw file; a file of that name is replaced when it is whole."""
    _convert(source, output, "thaw", backend, names, None, as_json)


@app.command(epilog=EPILOG)
def restore(
    path: Annotated[Path, typer.Argument(help="A snapshot.")],
    to: Annotated[Path, typer.Option("--to", help="A folder, or a .safetensors file, to write.")],
    format: Annotated[str, typer.Option(help="The format to write.")] = "safetensors",
    backend: Backend = "auto",
    names: Names = None,
    rank: Rank = None,
    as_json: Json = False,
) -> None:
    """Restore a snapshot to a checkpoint of another format."""
    _convert(path, to, format, backend, names, rank, as_json)


@app.command(epilog=EPILOG)
def convert(
    source: Annotated[Path, typer.Argument(help="A snapshot or checkpoint.")],
    destination: Annotated[Path, typer.Argument(help="What to write.")],
    format: Annotated[
        str | None, typer.Option(help="Its format; by its suffix if not given.")
    ] = None,
    backend: Backend = "auto",
    names: Names = None,
    rank: Rank = None,
    as_json: Json = False,
) -> None:
    """Write a snapshot or checkpoint in another format."""
    _convert(source, destination, format, backend, names, rank, as_json)


def _convert(
    source: Path,
    destination: Path,
    format: str | None,
    backend: str,
    names: list[str] | None,
    rank: int | None,
    as_json: bool,
) -> None:
    with guarded(as_json), progress_bar("moving", as_json) as progress:
        report = thaw.convert(
            source,
            destination,
            format=format,
            backend=backend,
            names=names,
            rank=rank,
            progress=progress,
        )
    emit(report, as_json, render.converted)


@app.command(epilog=EPILOG)
def inspect(
    path: Annotated[Path, typer.Argument(help="A snapshot or checkpoint.")],
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Verify everything, and digest each tensor.")
    ] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor, however many.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a file holds, from its header alone unless --sha256 is given."""
    with guarded(as_json):
        snapshots = thaw.open_ranks(path)
        if sha256:
            with progress_bar("verifying", as_json) as progress:
                thaw.verify(path, progress=progress)
        rows = tensor_table(snapshots, sha256=sha256)
        if as_json:
            print(_dumps(describe(path, snapshots) | {"tensors": rows}))
        else:
            render.inspected(path, snapshots, rows, every=tensors)
        for each in snapshots:
            each.close()


@app.command(epilog=EPILOG)
def verify(
    path: Annotated[Path, typer.Argument(help="A snapshot.")], as_json: Json = False
) -> None:
    """Check every byte of a snapshot against its digests."""
    with guarded(as_json), progress_bar("verifying", as_json) as progress:
        report = thaw.verify(path, progress=progress)
    emit(report, as_json, render.verified)


@app.command(epilog=EPILOG)
def diff(
    a: Annotated[Path, typer.Argument(help="One snapshot or checkpoint.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    backend: Backend = "auto",
    rank: Rank = None,
    as_json: Json = False,
) -> None:
    """Compare two snapshots tensor by tensor; exit 1 if they differ."""
    with guarded(as_json), progress_bar("comparing", as_json) as progress:
        found = thaw.diff(a, b, backend=backend, rank=rank, progress=progress)
    emit(found, as_json, render.compared, identical=found.identical)
    raise typer.Exit(0 if found.identical else 1)


@app.command(epilog=EPILOG)
def backends(as_json: Json = False) -> None:
    """List the backends: what each could do here, and why not."""
    emit(thaw.backends(), as_json, render.listed_backends)


@app.command(epilog=EPILOG)
def formats(as_json: Json = False) -> None:
    """List the file formats that are known here."""
    emit(thaw.formats(), as_json, render.listed_formats)


@app.command(epilog=EPILOG)
def version(as_json: Json = False) -> None:
    """Print the versions of thaw, the format it writes, torch and Python."""
    found = {
        "thaw": thaw.__version__,
        "format": "1.0",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(_dumps(found) if as_json else "\n".join(f"{k} {v}" for k, v in found.items()))


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        # The reader of standard output has gone; there is nobody to tell.
        sys.stdout = None
        sys.exit(0)
