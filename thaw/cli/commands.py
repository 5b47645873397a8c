"""The commands: their arguments, options and help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from .engine_commands import launcher, launcher_status, run, start_launcher, stop_launcher
from .errors import UsageError
from .exits import FAILED
from .importing import import_torch
from .options import Backend, Format, Json, MaxShardSize, Names, Quiet, Rank, Subject
from .output import Output
from .passing import MODEL
from .session_commands import prune_sessions, sessions


def freeze(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            readable=False,
            metavar="SOURCE",
            help="A .safetensors file, the folder of a checkpoint, or the index of one.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The .thaw file to write; with several ranks, the folder to make.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            MODEL,
            metavar="MODEL",
            help="The model that vLLM loads and thaw freezes: a folder, or a name that vLLM "
            "knows. In place of SOURCE.",
            show_default=False,
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel-size",
            "-tp",
            metavar="N",
            min=1,
            help="With --model: how many ranks share each layer. 1 if not given.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="With --model: `loaded`, the weights before vLLM processes them, which is the "
            "default; or `processed`, what processing made of them.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", hidden=True)] = None,
    allow_unverified: Annotated[
        bool | None,
        typer.Option(
            "--allow-unverified",
            help="With --stage processed: freeze what kernels made of weights that were never "
            "compared with a snapshot.",
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    names: Names = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Freeze a checkpoint to a .thaw file, or what vLLM loads of a model.

    OUT appears when it is whole and on disk. A file that is there is replaced then, in one step;
    until then, or if anything fails, it stays as it was.

    With --model, every other option of vLLM's engine is passed on to it, like --dtype bfloat16 or
    --quantization fp8. Its workers load the model, and no engine starts. vLLM's log goes to
    standard error; with --quiet it is left with warnings.
    """
    output = Output(as_json, quiet)
    if (source is None) == (model is None):
        raise UsageError("give either SOURCE or --model", context)
    if source is not None:
        import_torch()
        from .moving import Move, move

        engine: dict[str, object] = {
            "--stage": stage,
            "--kind": kind,
            "--tensor-parallel-size": tensor_parallel_size,
            "--allow-unverified": allow_unverified,
        }
        _refuse_given(engine, "goes with --model only", context)
        task = Move(source, out, "thaw", backend, names)
        move(task, output, doing="freezing", done="froze")
    elif model is not None:
        import_torch()
        from .engines import Wish, freeze_model

        _refuse_given({"--names": names}, "goes with SOURCE only", context)
        options = context.args
        allowed = bool(allow_unverified)
        if stage is not None and kind is not None:
            raise UsageError("give either --stage or --kind, its old name", context)
        if kind is not None:
            output.warn("--kind is called --stage now")
        chosen = stage or kind or "loaded"
        wish = Wish(model, out, chosen, tensor_parallel_size, backend, allowed, options)
        freeze_model(wish, output)


def restore(
    path: Subject,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="OUT",
            help="What to write: a .safetensors file or a folder of them, or a .thaw file.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="The format to write. By default the one that OUT's name ends like, and else "
            "`safetensors`.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: MaxShardSize = None,
    backend: Backend = "auto",
    names: Names = None,
    rank: Rank = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore a snapshot to a checkpoint.

    Every chunk that is read is checked against its digest before any file of OUT gets its name,
    and a file that is there is replaced in one step; in a folder, files of another checkpoint are
    refused, since the two would mix. Tied tensors are written once for each name.
    """
    import_torch()
    from .moving import Move, default_format, move

    task = Move(path, to, format or default_format(to), backend, names, rank, max_shard_size)
    move(task, Output(as_json, quiet), doing="restoring", done="restored")


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            readable=False, metavar="SRC", help="A snapshot or checkpoint.", show_default=False
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(readable=False, metavar="DST", help="What to write.", show_default=False),
    ],
    format: Format = None,
    max_shard_size: MaxShardSize = None,
    backend: Backend = "auto",
    names: Names = None,
    rank: Rank = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a snapshot or checkpoint in another format.

    Each file of DST is replaced in one step when it is whole. Memory holds 64 MiB of the tensors
    at a time, or the largest of them.
    """
    import_torch()
    from .moving import Move, move

    task = Move(source, destination, format, backend, names, rank, max_shard_size)
    move(task, Output(as_json, quiet), doing="converting", done="converted")


def inspect(
    path: Subject,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor, however many there are.")
    ] = False,
    sha256: Annotated[
        bool,
        typer.Option(
            "--sha256", help="Verify every byte, and give the SHA-256 of each tensor's elements."
        ),
    ] = False,
    rank: Rank = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Show what a snapshot or checkpoint holds.

    Only headers are read, unless --sha256 is given. With --json --sha256 this prints the tensor
    table by which the specification lets a reader prove itself, and of a session its table.
    """
    if sha256:
        import_torch()
    from .inspection import inspect as run

    run(path, Output(as_json, quiet), rank=rank, sha256=sha256, every=tensors)


def verify(path: Subject, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check every byte of a snapshot, all its ranks, and what it says of a session.

    A format without digests, such as safetensors, cannot show that bytes are unchanged: then the
    header alone is checked, and the report says so.
    """
    from .checking import verify as run

    run(path, Output(as_json, quiet))


def diff(
    a: Annotated[
        Path,
        typer.Argument(
            readable=False, metavar="A", help="A snapshot or checkpoint.", show_default=False
        ),
    ],
    b: Annotated[
        Path,
        typer.Argument(
            readable=False, metavar="B", help="Another, of any format.", show_default=False
        ),
    ],
    backend: Backend = "auto",
    rank: Rank = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two snapshots or checkpoints, tensor by tensor, byte by byte.

    The exit code is 1 if they differ.
    """
    import_torch()
    from .checking import diff as run

    if not run(a, b, Output(as_json, quiet), backend=backend, rank=rank):
        raise typer.Exit(FAILED)


def bench(
    path: Subject,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="A backend to measure, or `all`, which is the default. May be given again. One "
            "that is named must be able to serve here.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="cuda or cpu. By default cuda where there is one.",
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option("--repeat", metavar="N", min=1, help="Runs of everything; 3 if not given."),
    ] = 3,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="Where files are written and removed again: those that are frozen, and those "
            "that measure the disk. By default the folder of PATH.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Measure also restores of a file that is not in memory."),
    ] = False,
    gib: Annotated[
        float,
        typer.Option(
            "--ceiling-gib",
            metavar="N",
            min=0,
            max=1 << 20,
            help="How many GiB each measurement of the machine itself moves at most; 4 if not "
            "given.",
        ),
    ] = 4.0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the JSON to a file.", show_default=False
        ),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the results to a .svg or .png file; needs matplotlib.",
            show_default=False,
        ),
    ] = None,
    rank: Rank = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what this machine can move, and what share of it every backend reaches.

    Each backend restores and freezes the snapshot in fresh processes; what it restores is compared
    byte for byte with what the reference backend restores. The exit code is 1 if bytes differ or
    an operation fails, and 3 if no backend can serve. A backend that cannot is listed with the
    reason.
    """
    import_torch()
    from .benching import Wish
    from .benching import bench as run

    backends = backend or ["all"]
    nbytes = int(gib * (1 << 30))
    wish = Wish(path, backends, device, folder, repeat, rank, cold, nbytes, json_file, plot_file)
    if status := run(wish, Output(as_json, quiet)):
        raise typer.Exit(status)


def backends(as_json: Json = False) -> None:
    """List the backends, what each could do here, and why not."""
    import_torch()
    from .listing import backends as run

    run(Output(as_json))


def formats(as_json: Json = False) -> None:
    """List the file formats that are known here."""
    import_torch()
    from .listing import formats as run

    run(Output(as_json))


def version(as_json: Json = False) -> None:
    """Print the versions of thaw, of the format that it writes, of torch and of Python."""
    from .listing import version as run

    run(Output(as_json))


def _refuse_given(options: Mapping[str, object], why: str, context: typer.Context) -> None:
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} {why}", context)


COMMANDS = (
    freeze,
    restore,
    convert,
    inspect,
    verify,
    diff,
    sessions,
    run,
    launcher,
    bench,
    backends,
    formats,
    version,
)
BELOW: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "sessions": {"prune": prune_sessions},
    "launcher": {"start": start_launcher, "stop": stop_launcher, "status": launcher_status},
}
"""The commands of two words, by their first and their second."""
