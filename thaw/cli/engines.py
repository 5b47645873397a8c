"""What `thaw freeze --model` does and shows: vLLM loads a model, thaw freezes what it loaded."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

import thaw
from thaw.plugins.endings import check_ending
from thaw.plugins.host import registry
from thaw.vllm.weights.identity import STAGES

from .drawing import plain, say, verdict
from .errors import EngineError, UsageError
from .needs import check_needs
from .output import Output
from .passing import MODEL
from .shapes import FrozenModelJSON
from .text import count, escape, size

if TYPE_CHECKING:
    from thaw.vllm.ranks import EngineReport

_STDOUT, _STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Wish:
    """What to freeze, and how; `options` are vLLM's, as the user wrote them."""

    model: str
    destination: Path
    stage: str
    tensor_parallel_size: int | None
    backend: str
    allow_unverified: bool
    options: Sequence[str]


def freeze_model(wish: Wish, output: Output) -> None:
    """Freeze what vLLM loads of a model, and say so."""
    began = time.perf_counter()
    _check(wish)
    if output.shows_progress:
        what = f"vLLM loads {wish.model}, to be frozen to {wish.destination}"
        print(f"thaw: {escape(what)}", file=sys.stderr, flush=True)
    if output.quiet:
        # vLLM's own word for it, which reaches its workers as well.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with _errors_of_vllm(), _standard_output_aside():
        report = _freeze(wish, output)
    document = _document(wish, report, time.perf_counter() - began)
    output.emit(document, lambda console: _show(console, document))


def _check(wish: Wish) -> None:
    """Find out what is wrong before vLLM is imported, which takes long."""
    known = ("auto", *registry().backends)
    if wish.stage not in STAGES:
        words = " or ".join(STAGES)
        raise typer.BadParameter(f"{wish.stage!r} is not {words}", param_hint="--stage")
    if wish.backend not in known:
        raise thaw.UnknownBackendError(wish.backend, known)
    check_ending(wish.destination, "thaw")
    check_needs(wish.model, wish.destination.parent, MODEL)


def _freeze(wish: Wish, output: Output) -> EngineReport:
    from thaw.vllm.offline import freeze

    engine = _parse(wish)
    engine.setdefault("use_tqdm_on_load", output.shows_progress)
    return freeze(
        path=wish.destination,
        stage=wish.stage,
        backend=wish.backend,
        allow_unverified=wish.allow_unverified,
        **engine,
    )


def _parse(wish: Wish) -> dict[str, Any]:
    """Let vLLM parse its options, and return those that were given."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    load_general_plugins()
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False, allow_abbrev=False))
    parser.error = _refuse
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    options = [*wish.options, "--model", wish.model]
    if wish.tensor_parallel_size is not None:
        options += ["--tensor-parallel-size", str(wish.tensor_parallel_size)]
    given = vars(parser.parse_args(options))
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    return {name: value for name, value in given.items() if name in fields}


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"vLLM: {message}")


@contextmanager
def _errors_of_vllm() -> Iterator[None]:
    """Say what went wrong in vLLM, which raises all kinds of errors, in one line."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        if isinstance(error, thaw.ThawError) and type(error) is not thaw.ThawError:
            raise
        kind = "" if isinstance(error, thaw.ThawError) else f"{type(error).__name__}: "
        raise EngineError(f"vLLM: {kind}{error}") from error


@contextmanager
def _standard_output_aside() -> Iterator[None]:
    """Send what vLLM and its workers print to standard error: standard output is for data."""
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _document(wish: Wish, report: EngineReport, total_s: float) -> FrozenModelJSON:
    out = wish.destination
    files = sorted(out.iterdir()) if report.ranks > 1 else [out]
    return {
        "model": wish.model,
        "destination": str(out),
        "stage": wish.stage,
        "kind": wish.stage,
        "files": [str(file) for file in files],
        "ranks": report.ranks,
        "tensors": report.tensors,
        "nbytes": report.nbytes,
        "elapsed_s": report.elapsed_s,
        "total_s": total_s,
        "gbps": report.gbps,
        "backends": list(report.backends),
    }


def _show(console: Console, found: FrozenModelJSON) -> None:
    ranks = f" of {count(found['ranks'], 'rank')}" if found["ranks"] > 1 else ""
    what = f"froze {count(found['tensors'], 'tensor')}{ranks}, {size(found['nbytes'])}, to "
    how = (
        f" in {found['total_s']:.2f} s (written in {found['elapsed_s']:.2f} s, "
        f"{found['gbps']:.2f} GB/s, backend {', '.join(sorted(set(found['backends'])))})"
    )
    name = plain(found["destination"], "bold")
    say(console, verdict(console, True), what, name, Text(how, "dim"))
