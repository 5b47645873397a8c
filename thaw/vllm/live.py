"""What users do with live engines: written once, for those that block and those that are awaited.

With a `vllm.LLM` each function returns its result. With an `AsyncLLM` it returns a coroutine, and
calls that are awaited at the same time are done one after the other.
"""

from __future__ import annotations

import os
import secrets
import time

from thaw_format import ThawError

from .adapters import for_engines
from .engine import Engine
from .ranks import (
    EngineComparison,
    EngineReport,
    absolute,
    checked,
    compared,
    destination,
    frozen,
    report,
)
from .serving import undefined_weights

_RESET_S, _EVERY_S = 10.0, 0.01


@for_engines
async def freeze_engine(
    llm: Engine,
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    allow_unverified: bool = False,
) -> EngineReport:
    """Freeze the weights of a live engine, processed as they are, every rank to its own file.

    Args:
        llm: a `vllm.LLM`; or an `AsyncLLM`, and the result is awaited.
        allow_unverified: whether they may be of kernels that were never compared with a snapshot.

    Raises:
        MismatchError: the engine keeps weights where they cannot be read, or they are of kernels
            that were never compared.
        FileExistsError: of several ranks, where a folder of that name holds other things.
        ThawError: a rank failed; the message says which.
    """
    snapshot_id = secrets.token_hex(16)
    with destination(path, llm.world_size, snapshot_id) as where:
        answers = await llm.ask("freeze", where, snapshot_id, backend, allow_unverified)
        return frozen(where, snapshot_id, checked(answers))


@for_engines
async def restore_engine(
    llm: Engine, path: str | os.PathLike[str], *, backend: str = "auto", wait_s: float = 0.0
) -> EngineReport:
    """Swap the weights of a live engine in place, for those of a `processed` snapshot.

    Addresses stay, so CUDA graphs do; the prefix and encoder caches are reset. Where the path was
    pinned by `pin_engine`, the bytes come from there. If a rank fails once bytes have moved, the
    engine refuses requests until a restore ends well.

    Args:
        llm: a `vllm.LLM`; or an `AsyncLLM`, and the result is awaited. What is cancelled once bytes
            move has failed.
        wait_s: how many seconds requests that run are given to end.

    Raises:
        ThawError: requests are running, or come from other processes too, or a rank failed; the
            message says which.
        MismatchError: the snapshot is not of this engine; nothing has moved.
    """
    where = absolute(path)
    async with undefined_weights(llm, where, wait_s, lambda: _prepare(llm, where, backend)):
        answers = checked(await llm.ask("restore"))
        await _reset_prefix_cache(llm)
        await llm.reset_encoder_cache()
    return report(where, answers)


async def _prepare(engine: Engine, where: str, backend: str) -> None:
    answers = await engine.ask("prepare", where, backend)
    if any("error" in answer for answer in answers):
        await engine.ask("forget")
    checked(answers)


async def _reset_prefix_cache(engine: Engine) -> None:
    """Forget the blocks of the old weights; a freeze that has just ended may hold some still."""
    deadline_s = time.monotonic() + _RESET_S
    await engine.settle()
    while not await engine.reset_prefix_cache():
        if time.monotonic() > deadline_s:
            raise ThawError("the prefix cache of the old weights could not be reset")
        await engine.wait(_EVERY_S)


@for_engines
async def pin_engine(llm: Engine, path: str | os.PathLike[str]) -> None:
    """Lock each rank's file in the memory of its worker, for `restore_engine`."""
    checked(await llm.ask("pin", absolute(path)))


@for_engines
async def unpin_engine(llm: Engine, path: str | os.PathLike[str]) -> None:
    """Unlock what `pin_engine` locked."""
    checked(await llm.ask("unpin", absolute(path)))


@for_engines
async def verify(llm: Engine, path: str | os.PathLike[str]) -> EngineComparison:
    """Compare every tensor of a live engine, in place, with a snapshot, bit by bit.

    Raises:
        MismatchError: the snapshot is not of this engine.
    """
    return compared(checked(await llm.ask("compare", absolute(path))))
