"""What `thaw run` does: a server of vLLM, forked from the launcher or started plainly."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import thaw
from thaw.engines import client
from thaw.engines.launcher import Program

from .errors import LauncherError
from .needs import check_needs
from .passing import MODEL, named
from .text import escape

MODULE = "thaw.engines.server"
_LOAD_FORMAT, _EXTRA = "--load-format", "--model-loader-extra-config"
_OWNED = (MODEL, _LOAD_FORMAT, _EXTRA)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to serve; `options` are vLLM's, as the user wrote them."""

    model: str
    snapshot: Path
    backend: str
    options: Sequence[str]

    def arguments(self) -> list[str]:
        """Return what vLLM's server is given."""
        extra = {"snapshot": os.path.abspath(self.snapshot), "backend": self.backend}
        owned = [MODEL, self.model, _LOAD_FORMAT, "thaw", _EXTRA, json.dumps(extra)]
        return [*owned, *self.options]


def owned(options: Iterable[str]) -> str | None:
    """Find an option that would take the place of one of ours: vLLM goes by the last one.

    It takes the beginning of a name for the name, and `--name.key` for a part of its value.
    """
    for each in options:
        name = named(each).partition(".")[0]
        if len(name) > len("--") and any(ours.startswith(name) for ours in _OWNED):
            return each.partition("=")[0]
    return None


def serve(wish: Wish) -> NoReturn:
    """Serve until the server ends, and end as it has ended."""
    check_needs(wish.model, wish.snapshot, "thaw run")
    arguments = wish.arguments()
    try:
        status = client.run(Program(f"{MODULE}:main", [MODULE, *arguments]))
    except client.StatusLostError as error:
        raise LauncherError(str(error)) from error
    except (thaw.ThawError, OSError) as error:
        _serve_plainly(arguments, str(error))
    client.end_like(status)
    raise AssertionError("the process has ended")


def _serve_plainly(arguments: Sequence[str], why: str) -> NoReturn:
    """Become the server, which imports vLLM itself."""
    line = f"thaw: {escape(' '.join(why.split()))}: vLLM is started plainly"
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", MODULE, *arguments])
