"""What `thaw launcher start`, `stop` and `status` do and show."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import thaw
from thaw.engines import client
from thaw.engines.place import socket_path

from .drawing import say, verdict
from .errors import LauncherError
from .needs import check_vllm
from .output import Output
from .shapes import LauncherJSON, StartedLauncherJSON, StoppedLauncherJSON
from .text import ago, count, escape

MODULE = "thaw.engines.launcher"
_PATIENCE_S = 10.0
"""How long a launcher may take to end that was told to."""


def start(output: Output) -> None:
    """Start a launcher where none runs, and say so."""
    check_vllm("a launcher")
    with _errors():
        log = socket_path().with_suffix(".log")
    found, started = _running(), False
    if found is None:
        if output.shows_progress:
            print("thaw: the launcher imports vLLM", file=sys.stderr, flush=True)
        found, started = _run_one(log)
    if why := found.get("changed"):
        raise LauncherError(
            f"a launcher runs already, process {found['pid']}, and is not used: {why}; "
            "`thaw launcher stop` ends it"
        )
    document: StartedLauncherJSON = {
        "pid": found["pid"],
        "started": started,
        "elapsed_s": found["elapsed_s"],
        "modules": found["modules"],
    }
    output.emit(document, lambda console: _show_started(console, document))


def stop(output: Output) -> None:
    """Stop the launcher, and say how many servers go on."""
    found = _ask("stop")
    _wait(found["pid"])
    document: StoppedLauncherJSON = {"pid": found["pid"], "children": list(found["children"])}
    output.emit(document, lambda console: _show_stopped(console, document))


def status(output: Output) -> None:
    """Say what the launcher is and has done."""
    found = _ask("status")
    document: LauncherJSON = {
        "pid": found["pid"],
        "started_at": datetime.fromtimestamp(found["began"], UTC).isoformat(timespec="seconds"),
        "elapsed_s": found["elapsed_s"],
        "modules": found["modules"],
        "changed": found.get("changed"),
        "forked": found["forked"],
        "children": list(found["children"]),
    }
    since = time.time() - found["began"]
    output.emit(document, lambda console: _show(console, document, since))


@contextmanager
def _errors() -> Iterator[None]:
    """Let what is wrong with a launcher, or its place, be an error of its own kind."""
    try:
        yield
    except thaw.ThawError as error:
        raise LauncherError(str(error)) from error


def _ask(verb: str) -> Mapping[str, Any]:
    with _errors():
        return _answer(client.ask(verb))


def _running() -> Mapping[str, Any] | None:
    try:
        return _answer(client.ask("status"))
    except client.NoLauncherError:
        return None


def _answer(said: Mapping[str, Any]) -> Mapping[str, Any]:
    if why := said.get("refused"):
        raise LauncherError(f"the launcher does not answer: {why}")
    return said


def _run_one(log: Path) -> tuple[Mapping[str, Any], bool]:
    """Return what a launcher says of itself, and whether it was started here."""
    said = _launch(log)
    if "refused" not in said:
        return said, True
    # It may have found another, which was started meanwhile.
    if (found := _running()) is None:
        raise LauncherError(f"the launcher cannot start: {said['refused']}")
    return found, False


def _launch(log: Path) -> Mapping[str, Any]:
    """Start a launcher in the background, and return what it says of itself."""
    said, saying = os.pipe()
    with os.fdopen(said) as pipe:
        try:
            process = _spawn(log, saying)
        finally:
            os.close(saying)
        try:
            line = pipe.readline()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if not line.endswith("\n"):
        process.kill()
        raise LauncherError(_last_words(log, process.wait()))
    # It goes on, and this process does not wait for it.
    process.returncode = 0
    found: Mapping[str, Any] = json.loads(line)
    return found


def _spawn(log: Path, saying: int) -> subprocess.Popen[bytes]:
    # Here and not only there: what keeps Python from starting is to be in the log, too.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    streams = os.open(log, flags, 0o600)
    command = [sys.executable, "-P", "-m", MODULE, "--ready", str(saying), "--log", str(log)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=streams,
            stderr=streams,
            cwd="/",
            start_new_session=True,
            pass_fds=[saying],
        )
    finally:
        os.close(streams)


def _last_words(log: Path, status: int) -> str:
    lines = log.read_text(errors="replace").split("\n")
    said = next((each.strip() for each in reversed(lines) if each.strip()), "")
    why = said or f"it ended with status {status} and said nothing"
    return f"the launcher cannot start: {why} ({log} has all that it said)"


def _wait(pid: int) -> None:
    """Wait until a launcher has ended: only then can another take its place."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            ended, _, _ = select.select([process], [], [], _PATIENCE_S)
        finally:
            os.close(process)
        if not ended:
            raise LauncherError(
                f"the launcher, process {pid}, was told to stop and still runs after "
                f"{_PATIENCE_S:.0f} s: `kill -9 {pid}` ends it"
            )


def _show_started(console: Console, found: StartedLauncherJSON) -> None:
    verb = "started the launcher" if found["started"] else "a launcher runs already"
    how = f" ({_imports(found['modules'], found['elapsed_s'])})"
    say(console, verdict(console, True), f"{verb}, process {found['pid']}", Text(how, "dim"))


def _show_stopped(console: Console, found: StoppedLauncherJSON) -> None:
    left = len(found["children"])
    more = f"; {count(left, 'server')} {'goes' if left == 1 else 'go'} on" if left else ""
    say(console, verdict(console, True), f"stopped the launcher, process {found['pid']}{more}")


def _show(console: Console, found: LauncherJSON, since: float) -> None:
    how = f" ({_imports(found['modules'], found['elapsed_s'])})"
    began = f"process {found['pid']}, started {ago(since)}"
    say(console, verdict(console, True), f"the launcher runs: {began}", Text(how, "dim"))
    if found["changed"]:
        say(console, verdict(console, None), f"it is not used: {escape(found['changed'])}")
    running = ", ".join(map(str, found["children"]))
    say(console, f"forked {count(found['forked'], 'server')}; running: {running or 'none'}")


def _imports(modules: int, elapsed_s: float) -> str:
    return f"{count(modules, 'module')}, imported in {elapsed_s:.2f} s"
