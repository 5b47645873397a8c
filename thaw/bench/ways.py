"""Ways to move bytes, and the best of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Way:
    """One way to move bytes: the median of its runs and their spread, or why there were none."""

    how: str
    gbps: float | None
    lowest: float | None = None
    highest: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best of several ways; `gbps` is None where none of them works here.

    Attributes:
        name: "h2d-pinned", "d2h-pinned", "memcpy", "read-page-cache", "read-direct" or "write".
        detail: every way that was tried.
    """

    name: str
    gbps: float | None
    detail: tuple[Way, ...]

    @classmethod
    def of(cls, name: str, ways: Iterable[Way]) -> Ceiling:
        """Take the best of the ways."""
        ways = tuple(ways)
        return cls(name, max((way.gbps for way in ways if way.gbps), default=None), ways)


def try_way(how: str, repeat: int, once: Callable[[], float]) -> Way:
    """Run a way several times; the operating system may refuse it."""
    try:
        found = [once() for _ in range(repeat)]
    except OSError as error:
        return Way(how, None, reason=error.strerror or str(error))
    return Way(how, median(found), min(found), max(found))


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))
