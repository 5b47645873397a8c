"""Ask a launcher for a child, and be in its place for whoever started this process."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from thaw_format import ThawError

from . import wire
from .caller import STREAMS, Caller
from .launcher import PROTOCOL, Program
from .place import address_of, socket_path

_PASSED_ON = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP),
    *(signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
)

_PATIENCE_S = 30.0
"""How long a launcher may take to answer, which others may hold up a little."""


class NoLauncherError(ThawError):
    """No launcher serves here; the message says why."""


class StatusLostError(ThawError):
    """A child has ended, and nobody can say how."""


@dataclass(slots=True)
class Child:
    """A process that a launcher has forked for this one.

    Attributes:
        pidfd: None if it had ended, and was waited for, before this process knew of it.
    """

    pid: int
    pidfd: int | None
    connection: socket.socket

    def take_signals(self) -> None:
        """Have signals that come to this process go to that one, but those that are ignored."""
        for each in _PASSED_ON:
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, self._stop if each == signal.SIGTSTP else self._pass_on)

    def wait(self) -> int:
        """Wait until it has ended; return its status, as `os.waitpid` has it.

        Raises:
            StatusLostError: the launcher has ended before.
        """
        with suppress(OSError), self.connection:
            _wait_for(self.connection)
            if (received := wire.receive(self.connection)) is not None:
                return int(received[0]["status"])
        if self.pidfd is not None:
            _wait_for(self.pidfd)
        raise StatusLostError("the launcher ended before its child did, whose status is lost")

    def _pass_on(self, number: int, _: Any) -> None:
        if self.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def _stop(self, _: int, frame: Any) -> None:
        # A group without a terminal is not stopped by SIGTSTP.
        self._pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)


def run(program: Program) -> int:
    """Run a program in a child of this Python environment's launcher, in place of this process.

    Signals that come to this process go to the child.

    Returns:
        Its status, as `os.waitpid` has it.

    Raises:
        NoLauncherError: there is none, or it does not fit this process; the message says why.
        StatusLostError: the launcher has ended before the child.
    """
    # None may come between the child's begin and its being known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        child = start(program, replace(Caller.this(), blocked=sorted(before)))
        child.take_signals()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child.wait()


def start(program: Program, caller: Caller) -> Child:
    """Have the launcher fork a child that runs a program.

    Args:
        caller: whose child it is to be like.

    Raises:
        NoLauncherError: there is none, or it does not fit the caller; the message says why.
    """
    connection = _connect()
    try:
        pid = _started(connection, program, caller)
    except BaseException:
        connection.close()
        raise
    return Child(pid, _pidfd(pid), connection)


def ask(verb: str) -> wire.Message:
    """Ask a launcher for its status, or to stop.

    Raises:
        NoLauncherError: there is none.
    """
    with _connect() as connection:
        return _answer(connection, {"verb": verb})


def end_like(status: int) -> None:
    """End this process as another one has ended, by the same signal or with the same exit code.

    Args:
        status: as `os.waitpid` has it.
    """
    sys.stdout.flush()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # It has dumped its core, if anyone has.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _wait_for(file: socket.socket | int) -> None:
    """Wait until something can be read, and run handlers of signals as they come.

    One that comes just before a system call begins would wait as long as that does.
    """
    heard, rung = socket.socketpair()
    with heard, rung:
        rung.setblocking(False)
        before = signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        try:
            while file not in select.select([file, heard], [], [])[0]:
                heard.recv(4096)
        finally:
            signal.set_wakeup_fd(before)


def _started(connection: socket.socket, program: Program, caller: Caller) -> int:
    """Ask for a child; return its pid."""
    message = {
        "verb": "start",
        "protocol": PROTOCOL,
        "entry": program.entry,
        "argv": list(program.argv),
        "caller": caller.record(),
    }
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        answer = _answer(connection, message, [*STREAMS, folder])
    finally:
        os.close(folder)
    if "refused" in answer:
        raise NoLauncherError(f"the launcher is not used: {answer['refused']}")
    return int(answer["pid"])


def _answer(
    connection: socket.socket, message: wire.Message, files: Sequence[int] = ()
) -> wire.Message:
    try:
        connection.settimeout(_PATIENCE_S)
        wire.send(connection, message, files)
        received = wire.receive(connection)
        connection.settimeout(None)
    except (OSError, ValueError) as error:
        raise NoLauncherError(f"the launcher does not answer: {error}") from error
    if received is None:
        raise NoLauncherError("the launcher ended meanwhile")
    return received[0]


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _connect() -> socket.socket:
    path = socket_path()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise NoLauncherError("no launcher runs in this Python environment") from None
    _, uid = wire.peer(connection)
    if uid != os.geteuid():
        connection.close()
        raise NoLauncherError(f"the launcher is of user {uid}")
    return connection
