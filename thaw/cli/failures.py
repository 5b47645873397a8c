"""From errors to one line and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

import thaw

OK, INVALID, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130


@contextmanager
def guarded(as_json: bool) -> Iterator[None]:
    """Turn the errors of a command into one line on standard error and an exit code."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (thaw.ThawError, OSError, TypeError, ValueError) as error:
        code, status = _classify(error)
        _report(error, code, as_json)
        raise typer.Exit(status) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _classify(error: Exception) -> tuple[str, int]:
    match error:
        case thaw.FormatError():
            return error.code, INVALID
        case thaw.MismatchError():
            return "mismatch", INVALID
        case thaw.UnknownBackendError():
            return "backend-unknown", USAGE
        case thaw.UnavailableBackendError():
            return "backend-unavailable", UNAVAILABLE
        case thaw.TransferError():
            return "transfer", INVALID
        case OSError():
            return "io", INVALID
        case thaw.ThawError():
            return "usage", USAGE
        case _:
            return "unsupported", INVALID


def _report(error: Exception, code: str, as_json: bool) -> None:
    message = _line(error)
    if as_json:
        found = {
            "code": code,
            "rule": getattr(error, "rule", None),
            "message": message,
            "path": getattr(error, "path", None) or getattr(error, "filename", None),
            "offset": getattr(error, "offset", None),
        }
        print(json.dumps(found, default=str), file=sys.stderr)
    else:
        print(f"thaw: {message}", file=sys.stderr)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())
