"""The command as a whole: which commands there are, and how each ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn

import typer
from typer.core import TyperGroup

from .commands import BELOW, COMMANDS, freeze
from .engine_commands import launcher
from .errors import INTERRUPTION, StoppedError, describe, discard, report
from .exits import CLOSED, EXIT_CODES, OK, USAGE
from .passing import PassingCommand


class CommandGroup(TyperGroup):
    """Ends every command with one line at most on standard error, and an exit code.

    The name of a command may have two words.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = " ".join(args[:2])
        return super().resolve_command(ctx, [name, *args[2:]] if name in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise StoppedError(CLOSED) from None
        except KeyboardInterrupt as error:
            # typer would end without a word.
            raise StoppedError(INTERRUPTION.status) from error
        return result

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run with these arguments, or those of the process, and exit."""
        arguments = sys.argv[1:] if args is None else list(args)
        extra["standalone_mode"] = False
        sys.exit(self._status(arguments, prog_name, extra))

    def _status(self, arguments: list[str], prog_name: str | None, extra: dict[str, Any]) -> int:
        as_json = "--json" in arguments
        try:
            result = super().main(args=arguments, prog_name=prog_name, **extra)
            return result if isinstance(result, int) else OK
        except StoppedError as stopped:
            if stopped.status == CLOSED:
                discard(sys.stdout)
            else:
                report(INTERRUPTION, as_json=as_json)
            return stopped.status
        except SystemExit as ended:
            # What typer makes of a closed pipe where no command runs, as with `--help`.
            if not isinstance(ended.__context__, BrokenPipeError):
                raise
            discard(sys.stdout)
            return CLOSED
        except Exception as error:
            failure = INTERRUPTION if _came_of_interrupt(error) else describe(error)
            if failure is None:
                raise
            _discard_unwritten(sys.stdout)
            report(failure, as_json=as_json)
            return failure.status


app = typer.Typer(
    name="thaw",
    cls=CommandGroup,
    epilog="Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    + ".",
    rich_markup_mode=None,  # rich takes longer to import than all else here
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, command: Callable[..., None]) -> None:
    # Given as the short help, a summary is wrapped and not cut off.
    summary = str(command.__doc__).partition("\n")[0]
    passes = PassingCommand if command is freeze else None
    # Of a launcher there are only commands of two words; this one tells them.
    app.command(name, cls=passes, short_help=summary, hidden=command is launcher)(command)


for each in COMMANDS:
    _add(each.__name__, each)
    for word, command in BELOW.get(each.__name__, {}).items():
        _add(f"{each.__name__} {word}", command)


@app.callback(invoke_without_command=True)
def thaw(context: typer.Context) -> None:
    """Freeze the exact bytes of model state to a file, and restore them bit-identical."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def main() -> None:
    """Run the command line."""
    _prepare_streams()
    app()


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        else:
            # A path that is no text, or a terminal of few characters, is no reason to fail.
            stream.reconfigure(errors="backslashreplace")


def _came_of_interrupt(error: BaseException) -> bool:
    """Say whether an error is what became of Ctrl-C: in a lock, Python may turn it into another."""
    before = error.__context__
    return before is not None and (
        isinstance(before, KeyboardInterrupt) or _came_of_interrupt(before)
    )


def _discard_unwritten(stream: IO[str]) -> None:
    try:
        stream.flush()
    except OSError:
        discard(stream)
