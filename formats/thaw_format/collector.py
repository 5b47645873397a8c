"""Python's garbage collector, out of the way while thousands of values are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic collector from running in this block.

    A large manifest becomes many objects at once, none of them garbage: collecting meanwhile finds
    nothing and takes longer than making them. Other threads go without it meanwhile.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
