"""Keep a live engine from serving while its weights change, and after a change that failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from thaw_format import ThawError

from .engine import Door, Engine

_EVERY_S = 0.01


@asynccontextmanager
async def undefined_weights(
    engine: Engine, path: str, wait_s: float, prepare: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Have an engine refuse requests while its weights are swapped, and for good if that fails.

    All of its doors raise a `ThawError` until a block like this one has ended well.

    Args:
        wait_s: how many seconds requests that run are given to end, before the block begins.
        prepare: called when none runs; if it fails, the engine is as it was. Where some run it is
            called before the wait as well, so that what cannot be is not waited for.

    Raises:
        ThawError: some still run, or come in by ways that cannot be shut; the engine is as it was.
    """
    engine.check_only_entrance()
    before = [_shut(door, path) for door in engine.doors]
    try:
        if engine.is_busy():
            await prepare()
            await _wait_for_requests(engine, wait_s)
        await prepare()
    except BaseException:
        _open(engine.doors, before)
        raise
    try:
        yield
    except BaseException as error:
        error.add_note(
            f"thaw: the restore from {path} has not ended on every rank. The weights are undefined "
            "and nothing is served. Restore again; if a worker has died, start a new engine."
        )
        raise
    _open(engine.doors, [None] * len(before))


def _shut(door: Door, path: str) -> Any:
    """Put a refusal in the place of a method; return what stood in that place before."""
    before = vars(door.owner).pop(door.name, None)
    enter = getattr(door.owner, door.name)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if door.is_inside(*args, **kwargs):
            return enter(*args, **kwargs)
        raise ThawError(
            f"this engine serves nothing: its weights are undefined until a restore, now or last "
            f"from {path}, has ended well; call thaw_vllm.restore_engine"
        )

    setattr(door.owner, door.name, refuse)
    return before


def _open(doors: Sequence[Door], before: Sequence[Any]) -> None:
    for door, stood in zip(doors, before, strict=True):
        delattr(door.owner, door.name)
        if stood is not None:
            setattr(door.owner, door.name, stood)


async def _wait_for_requests(engine: Engine, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    while engine.is_busy():
        if time.monotonic() >= deadline_s:
            waited = f" after {wait_s:g} s" if wait_s else ""
            raise ThawError(
                f"requests are running{waited}: let them end before their weights are swapped, or "
                "pass wait_s= to give them time"
            )
        await engine.wait(_EVERY_S)
