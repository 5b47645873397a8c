"""Python's garbage collector, out of the way while thousands of values are made."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_NEVER = 2_000_000_011
"""So many new objects there will not be between two collections; nobody else chooses this."""


class _Pauses:
    """Who keeps the collector from running, in all threads.

    It is not disabled: whether it is, is the program's affair, which may disable it meanwhile.
    """

    def __init__(self) -> None:
        self._lock, self._depth = threading.RLock(), 0
        self._own = threading.local()
        self._threshold = 0

    def begin(self) -> None:
        with self._lock:
            self._depth += 1
            self._own.depth = getattr(self._own, "depth", 0) + 1
            threshold, *others = gc.get_threshold()
            if threshold != _NEVER:
                self._threshold = threshold
                gc.set_threshold(_NEVER, *others)

    def end(self) -> None:
        with self._lock:
            self._depth -= 1
            self._own.depth -= 1
            if not self._depth:
                self._restore()

    def keep_own(self) -> None:
        """Forget those of other threads, which a process that was forked does not have."""
        self._lock = threading.RLock()
        self._depth = getattr(self._own, "depth", 0)
        if not self._depth:
            self._restore()

    def _restore(self) -> None:
        threshold, *others = gc.get_threshold()
        if threshold == _NEVER:
            gc.set_threshold(self._threshold, *others)


@cache
def _pauses() -> _Pauses:
    # Not when this is imported, which changes nothing for programs that never come here.
    pauses = _Pauses()
    os.register_at_fork(after_in_child=pauses.keep_own)
    return pauses


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic collector from running in this block.

    A large manifest becomes many objects at once, none of them garbage: collecting meanwhile finds
    nothing and takes longer than making them. Other threads go without it meanwhile. Blocks may
    overlap; what the program itself says of the collector meanwhile stays as it says.
    """
    pauses = _pauses()
    pauses.begin()
    try:
        yield
    finally:
        pauses.end()
