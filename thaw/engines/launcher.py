"""The launcher: a process that has imported vLLM, and becomes what others ask for by forking."""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from . import wire
from .caller import Caller, apart
from .place import address_of, claim, socket_path
from .preload import MODULES, Preloaded, preload, unfit

_READY = b"ready"
_MOST_NBYTES = 4096
Ready: TypeAlias = Callable[[Mapping[str, Any]], None]
PROTOCOL = 1
_PATIENCE_S = 5.0
"""How long a caller may take to say what it wants, and a child to become like it."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a child runs: a function without arguments, and what `sys.argv` is.

    Attributes:
        entry: as entry points have it, "module:function".
    """

    entry: str
    argv: Sequence[str]

    def run(self) -> Any:
        """Run it, as the script of an entry point does."""
        module, _, function = self.entry.partition(":")
        sys.argv = list(self.argv)
        return getattr(import_module(module), function)()


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    pidfd: int
    connection: socket.socket


class Launcher:
    """Serves a socket until it is told to stop.

    Args:
        preloaded: what was imported.
        listener: listens, and is closed at the end.
    """

    def __init__(self, preloaded: Preloaded, listener: socket.socket) -> None:
        self._preloaded, self._listener = preloaded, listener
        self._began, self._forked = time.time(), 0
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> Program | None:
        """Fork children; return None at the end, and in a child what it is to run."""
        while self._listener.fileno() >= 0:
            for key, _ in self._selector.select():
                if (program := key.data()) is not None:
                    return program  # type: ignore[no-any-return]
        self._close()
        return None

    def _accept(self) -> Program | None:
        connection, _ = self._listener.accept()
        connection.settimeout(_PATIENCE_S)
        try:
            return self._answer(connection)
        except (OSError, ValueError, KeyError, TypeError) as error:
            with suppress(OSError):
                wire.send(connection, {"refused": f"{type(error).__name__}: {error}"})
            connection.close()
            return None

    def _answer(self, connection: socket.socket) -> Program | None:
        if (received := wire.receive(connection)) is None:
            connection.close()
            return None
        message, files = received
        try:
            pid, uid = wire.peer(connection)
            if uid != os.geteuid():
                # Said when it has been heard: what is not read would undo what is said.
                raise PermissionError(f"it is of user {os.geteuid()}, and you are user {uid}")
            if message["verb"] == "start":
                return self._start(connection, message, files, pid)
        finally:
            for each in files:
                with suppress(OSError):
                    os.close(each)
        wire.send(connection, self.status)
        connection.close()
        if message["verb"] == "stop":
            self._listener.close()
        return None

    @property
    def status(self) -> dict[str, Any]:
        """What it has done, and for whom."""
        return {
            "pid": os.getpid(),
            "began": self._began,
            "elapsed_s": self._preloaded.elapsed_s,
            "modules": len(self._preloaded.files),
            "forked": self._forked,
            "children": sorted(self._children),
            "changed": self._preloaded.changed(),
        }

    def _start(
        self, connection: socket.socket, message: wire.Message, files: list[int], pid: int
    ) -> Program | None:
        caller = Caller.of(message["caller"])
        program = Program(message["entry"], message["argv"])
        if message["protocol"] != PROTOCOL:
            raise ValueError("it speaks another version's protocol")
        differs = apart(pid) or self._preloaded.differs(caller.environment)
        if why := differs or self._preloaded.changed():
            wire.send(connection, {"refused": why})
            connection.close()
            return None
        here, there = socket.socketpair()
        child = os.fork()
        if not child:
            here.close()
            connection.close()
            self._become(caller, files, there)
            return program
        there.close()
        with here:
            here.settimeout(_PATIENCE_S)
            self._introduce(child, here, connection)
        return None

    def _introduce(self, child: int, here: socket.socket, connection: socket.socket) -> None:
        """Let a child begin when its caller knows of it, and not before: it may start another."""
        try:
            if (said := here.recv(_MOST_NBYTES)) != _READY:
                raise ChildProcessError(said.decode() or "the child died as it began")
            wire.send(connection, {"pid": child})
            here.sendall(_READY)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        self._forked += 1
        self._watch(_Child(child, os.pidfd_open(child), connection))

    def _become(self, caller: Caller, files: list[int], there: socket.socket) -> None:
        """Leave everything of the launcher's behind, in the child, and wait for its word."""
        try:
            self._listener.close()
            self._close()
            caller.become(files)
            files.clear()
            there.sendall(_READY)
            if there.recv(len(_READY)) != _READY:
                os._exit(1)
        except (OSError, ValueError, TypeError, KeyError) as error:
            there.sendall(f"{type(error).__name__}: {error}".encode()[:_MOST_NBYTES])
            os._exit(1)
        there.close()

    def _watch(self, child: _Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._ended(child))
        self._selector.register(child.connection, selectors.EVENT_READ, lambda: self._left(child))

    def _ended(self, child: _Child) -> None:
        """Say how a child has ended."""
        _, status = os.waitpid(child.pid, 0)
        del self._children[child.pid]
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if child.connection.fileno() >= 0:
            self._selector.unregister(child.connection)
            with suppress(OSError):
                wire.send(child.connection, {"status": status})
            child.connection.close()

    def _left(self, child: _Child) -> None:
        """End a child whose caller has gone, as a terminal does when it is closed."""
        if child.pid not in self._children:
            return
        self._selector.unregister(child.connection)
        child.connection.close()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGTERM)

    def _close(self) -> None:
        """Let go of all children."""
        self._selector.close()
        for each in self._children.values():
            each.connection.close()
            os.close(each.pidfd)


def run(modules: Sequence[str] = MODULES, ready: Ready | None = None) -> Any:
    """Import, listen, and fork until told to stop; in a child, run what was asked for.

    Args:
        modules: what is imported.
        ready: is told once what became of it: "pid", "modules" and "elapsed_s", or "refused".

    Returns:
        The exit status, or what the program returned.
    """
    tell = ready or (lambda _: None)
    path = socket_path()
    with claim(path) as is_ours:
        if not is_ours:
            tell({"refused": "a launcher of this Python environment runs already"})
            return 1
        preloaded = preload(modules)
        if why := unfit():
            tell({"refused": why})
            return 1
        launcher = Launcher(preloaded, _listen(path))
        tell(
            {
                "pid": os.getpid(),
                "modules": len(preloaded.files),
                "elapsed_s": preloaded.elapsed_s,
            }
        )
        program = launcher.serve()
    return program.run() if program else 0


def main() -> Any:
    """Be a launcher, of which others are told what became of it."""
    parser = argparse.ArgumentParser(description="Import vLLM, and fork servers on request.")
    parser.add_argument("--ready", type=int, help="a descriptor that a line of JSON is written to")
    parser.add_argument("--log", type=Path, help="takes what is written to standard streams")
    parser.add_argument("--modules", nargs="*", default=MODULES, help="to import")
    args = parser.parse_args()
    if args.log:
        log = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)

    def ready(said: Mapping[str, Any]) -> None:
        if args.ready is not None:
            with os.fdopen(args.ready, "w") as pipe:
                print(json.dumps(said), file=pipe)

    return run(args.modules, ready)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        with address_of(path) as address:
            listener.bind(address)
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


if __name__ == "__main__":
    sys.exit(main())
