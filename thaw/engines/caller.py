"""All that a process has of the one that started it, and how another becomes like that."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

_LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
STREAMS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a process that is started gets from the one that starts it.

    Attributes:
        limits: soft and hard, by name.
        ignored: numbers of signals.
        blocked: the same.
        affinity: which processors it may run on.
    """

    environment: Mapping[str, str]
    umask: int
    limits: Mapping[str, Sequence[int]]
    niceness: int
    ignored: Sequence[int]
    blocked: Sequence[int]
    affinity: Sequence[int]

    @classmethod
    def this(cls) -> Self:
        """Describe this process."""
        umask = os.umask(0)
        os.umask(umask)
        return cls(
            environment=dict(os.environ),
            umask=umask,
            limits={name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
            niceness=os.getpriority(os.PRIO_PROCESS, 0),
            ignored=[each for each in _signals() if signal.getsignal(each) is signal.SIG_IGN],
            blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            affinity=sorted(os.sched_getaffinity(0)),
        )

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Take what `record` made."""
        return cls(**said)

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def become(self, files: Sequence[int]) -> None:
        """Let this process be as if that one had started it.

        Args:
            files: its standard streams and its working directory, open; they are closed.

        Raises:
            OSError: it may not; a limit is above what this process may have, for instance.
        """
        *streams, folder = files
        os.setsid()
        os.fchdir(folder)
        for place, each in zip(STREAMS, streams, strict=True):
            os.dup2(each, place)
        for each in files:
            os.close(each)
        os.environ.clear()
        os.environ.update(self.environment)
        os.umask(self.umask)
        for name, limits in self.limits.items():
            _limit(getattr(resource, name), (limits[0], limits[1]))
        os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
        os.sched_setaffinity(0, self.affinity)
        for each in _signals():
            signal.signal(each, signal.SIG_IGN if each in self.ignored else _usual(each))
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=stream.isatty())  # type: ignore[union-attr]
        _forget_chance()


def apart(pid: int) -> str | None:
    """Say in which namespace a process is not with this one."""
    for name in _NAMESPACES:
        try:
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                return f"the caller is in another {name} namespace"
        except OSError:
            continue
    return None


def _signals() -> list[signal.Signals]:
    never = {signal.SIGKILL, signal.SIGSTOP}
    return [each for each in signal.Signals if each not in never]


def _usual(number: signal.Signals) -> Any:
    """Return what Python does with a signal when it starts."""
    if number == signal.SIGINT:
        return signal.default_int_handler
    return signal.SIG_IGN if number in (signal.SIGPIPE, signal.SIGXFSZ) else signal.SIG_DFL


def _limit(which: int, limits: tuple[int, int]) -> None:
    if resource.getrlimit(which) != limits:
        resource.setrlimit(which, limits)


def _forget_chance() -> None:
    """Let nothing be drawn that another child draws too."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if process := sys.modules.get("multiprocessing.process"):
        process.current_process().authkey = os.urandom(32)
