"""Pieces moved by several threads at once, and how much a second that was."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf

Move = Callable[[int, int], int]
"""Moves one piece: (number of the thread, number of the piece) -> bytes moved."""


def move_pieces(
    move: Move,
    pieces: int,
    *,
    threads: int,
    limit_s: float = inf,
    finish: Callable[[], None] | None = None,
) -> float:
    """Move pieces in order, each by the thread that is free; return GB/s.

    Args:
        limit_s: no piece begins later than this.
        finish: what belongs to the time but comes after the last piece.
    """
    numbers, stop = itertools.count(), threading.Event()
    began = time.perf_counter()

    def work(thread: int) -> int:
        moved = 0
        try:
            while not stop.is_set() and time.perf_counter() - began < limit_s:
                if (number := next(numbers)) >= pieces:
                    break
                moved += move(thread, number)
        except BaseException:
            stop.set()
            raise
        return moved

    with ThreadPoolExecutor(threads, "thaw-bench") as pool:
        futures = [pool.submit(work, thread) for thread in range(threads)]
        try:
            moved = sum(future.result() for future in futures)
        finally:
            stop.set()
        if finish:
            finish()
        return moved / (time.perf_counter() - began) / 1e9
