"""Keep a live engine from serving while its weights change, and after a change that failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from thaw_format import ThawError

if TYPE_CHECKING:
    from vllm import LLM

_ENTRANCE = "add_request"
_EVERY_S = 0.01


@contextmanager
def undefined_weights(
    llm: LLM, path: str, wait_s: float, prepare: Callable[[], None]
) -> Iterator[None]:
    """Have an engine refuse requests while its weights are swapped, and for good if that fails.

    All that `vllm.LLM` offers goes through the `add_request` of its engine, which raises a
    `ThawError` until a block like this one has ended well.

    Args:
        wait_s: how many seconds requests that run are given to end, before the block begins.
        prepare: called when none runs; if it fails, the engine is as it was. Where some run it is
            called before the wait as well, so that what cannot be is not waited for.

    Raises:
        ThawError: some still run; the engine is as it was.
    """
    engine: Any = llm.llm_engine
    before = vars(engine).pop(_ENTRANCE, None)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ThawError(
            f"this engine serves nothing: its weights are undefined until a restore, now or last "
            f"from {path}, has ended well; call thaw_vllm.restore_engine"
        )

    setattr(engine, _ENTRANCE, refuse)
    try:
        if engine.has_unfinished_requests():
            prepare()
            _wait_for_requests(engine, wait_s)
        prepare()
    except BaseException:
        _put_back(engine, before)
        raise
    try:
        yield
    except BaseException as error:
        error.add_note(
            f"thaw: the restore from {path} has not ended on every rank. The weights are undefined "
            "and nothing is served. Restore again; if a worker has died, start a new engine."
        )
        raise
    _put_back(engine, None)


def _put_back(engine: Any, before: Any) -> None:
    delattr(engine, _ENTRANCE)
    if before is not None:
        setattr(engine, _ENTRANCE, before)


def _wait_for_requests(engine: Any, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    while engine.has_unfinished_requests():
        if time.monotonic() >= deadline_s:
            waited = f" after {wait_s:g} s" if wait_s else ""
            raise ThawError(
                f"requests are running{waited}: let them end before their weights are swapped, or "
                "pass wait_s= to give them time"
            )
        time.sleep(_EVERY_S)
