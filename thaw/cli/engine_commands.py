"""The commands about engines: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError
from .options import Backend, Json, Quiet
from .output import Output
from .passing import MODEL


def run(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- ARGS",
            help="Arguments of vLLM's server, such as `--port 8000`.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str,
        typer.Option(
            MODEL,
            metavar="MODEL",
            help="The model that vLLM serves: a folder, or a name that vLLM knows.",
            show_default=False,
        ),
    ],
    snapshot: Annotated[
        Path,
        typer.Option(
            "--snapshot",
            metavar="PATH",
            help="The snapshot that its weights come from: a .thaw file, or a folder of several.",
            show_default=False,
        ),
    ],
    backend: Backend = "auto",
) -> None:
    """Serve a model with vLLM's OpenAI server, its weights from a snapshot.

    Where a launcher runs that fits (`thaw launcher start`), the server is forked from it and is
    as if it had been started here: it has this process's environment, folder, limits and
    streams, gets its signals, and the exit code is its own. Otherwise the server is started
    plainly in place of this process, and a line on standard error says why.
    """
    from .running import Wish, owned, serve

    passed = arguments or []
    if (name := owned(passed)) is not None:
        raise UsageError(f"{name} is decided by `thaw run` itself: leave it out", context)
    serve(Wish(model, snapshot, backend, passed))


def launcher(context: typer.Context) -> None:
    """Have a process ready that has imported vLLM, from which `thaw run` forks servers.

    It is one of start, stop and status: `thaw launcher start --help` and so on have more.
    """
    raise UsageError("give start, stop or status", context)


def start_launcher(as_json: Json = False, quiet: Quiet = False) -> None:
    """Start the launcher of this Python environment, and return when servers can be forked.

    It has imported vLLM and initialized no CUDA, and stays in the background until it is stopped.
    One that runs already is left as it is. The exit code is 1 if it cannot start.
    """
    from .launching import start

    start(Output(as_json, quiet))


def stop_launcher(as_json: Json = False, quiet: Quiet = False) -> None:
    """Stop the launcher of this Python environment.

    Servers that it has forked go on. The exit code is 1 if none runs.
    """
    from .launching import stop

    stop(Output(as_json, quiet))


def launcher_status(as_json: Json = False) -> None:
    """Tell of the launcher of this Python environment, and which servers run that it forked.

    The exit code is 1 if none runs.
    """
    from .launching import status

    status(Output(as_json))
