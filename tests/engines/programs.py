"""What children of launchers run in tests, and the same processes that were started plainly."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path


def describe() -> None:
    """Print all that a process has of the one that started it."""
    umask = os.umask(0)
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    never = {signal.SIGKILL, signal.SIGSTOP}
    said = {
        "argv": sys.argv,
        "folder": os.getcwd(),
        "environment": {key: value for key, value in os.environ.items() if key != "_"},
        "umask": umask,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "handlers": {
            each.name: str(signal.getsignal(each)).partition(" at ")[0]
            for each in signal.Signals
            if each not in never
        },
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "input": sys.stdin.read(),
        "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "threads": len(os.listdir("/proc/self/task")),
    }
    print(json.dumps(said))
    print("and this on standard error", file=sys.stderr)


def nothing() -> None:
    """Do nothing."""


def returns() -> int:
    return 7


def raises() -> None:
    raise RuntimeError("it fails")


def exits() -> None:
    sys.exit("said at the end")


def leaves() -> None:
    os._exit(3)


def dies() -> None:
    os.kill(os.getpid(), getattr(signal, sys.argv[0]))


def waits() -> None:
    """Say that it runs, and then which signals come, until it is terminated."""
    names = ("SIGINT", "SIGHUP", "SIGUSR1", "SIGTERM")

    def come(number: int, _: object) -> None:
        print(signal.Signals(number).name, flush=True)
        if number == signal.SIGTERM:
            sys.exit(5)

    for name in names:
        signal.signal(getattr(signal, name), come)
    print("runs", os.getpid(), flush=True)
    while True:
        time.sleep(60)


def draws() -> None:
    """Print what chance gives."""
    import random

    print(random.random())


def touches() -> None:
    Path(sys.argv[0]).touch()
