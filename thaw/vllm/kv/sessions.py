"""Freeze and restore sessions of a live engine: by requests of its own, which the connector sees.

So they go in turn with other requests, through whatever engine there is, and touch no blocks that
others use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from thaw_format import ThawError, open_ranks, place_of, staging_folder

from ...errors import MismatchError
from ...plugins.endings import check_ending
from ...reports import Report
from ..adapters import for_engines
from ..answers import Answer
from ..engine import Engine
from ..ranks import absolute, checked
from .entries import read_entry
from .record import Session

Prompt: TypeAlias = "str | Sequence[int] | Mapping[str, Any] | Any"
"""A text, token ids, one of vLLM's prompts, or a `RequestOutput`: its prompt and answer."""
_EVERY_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport(Report):
    """What a freeze or a restore of a session moved: the bytes of all ranks, the slowest's time.

    Attributes:
        tokens: that the session's blocks hold, or that are cached now.
        ranks: how many froze or loaded it.
    """

    path: Path
    tokens: int
    ranks: int


@for_engines
async def freeze_session(
    llm: Engine,
    prompt: Prompt,
    path: str | os.PathLike[str],
    *,
    lora_request: Any = None,
    cache_salt: str | None = None,
) -> SessionReport:
    """Freeze the KV blocks of a prompt, whole blocks of it, every rank to its own file.

    What the engine has in its cache is frozen as it is there; what it has not is computed.

    Args:
        llm: a `vllm.LLM` that was started with sessions; or an `AsyncLLM`, and it is awaited.
        prompt: a text, token ids, a prompt of vLLM's, or a `RequestOutput`: prompt and answer.
        path: ends in `.thaw`, and is in the engine's folder of sessions, unless its `any_path` is
            set, as `thaw_vllm.load` does.
        lora_request: the adapter, as the requests had it; that of a `RequestOutput` is known.
        cache_salt: as the requests had it.

    Raises:
        ThawError: the engine has no sessions, the prompt not one whole block, or a rank failed.
        OSError: the file cannot be written; one of that name is untouched.
    """
    began = time.perf_counter()
    check_ending(Path(path), "thaw")
    where = os.fspath(place_of(path))
    adapter = lora_request or getattr(prompt, "lora_request", None)
    made, tokens = await _prompt(llm, prompt, cache_salt)
    asked = {"freeze": where} | ({"tokens": tokens} if tokens else {})
    output = await llm.generate(made, asked, adapter)
    said = _said(output)
    if "snapshot_id" not in said:
        raise ThawError(f"{where} was not frozen: {said.get('error', _NO_CONNECTOR)}")
    await llm.settle()
    moved = await _ended(llm, said["snapshot_id"])
    await _sealed(llm, where, said["snapshot_id"], len(moved))
    return _report(where, moved, said["tokens"], time.perf_counter() - began)


@for_engines
async def restore_session(
    llm: Engine,
    path: str | os.PathLike[str],
    *,
    lora_request: Any = None,
    cache_salt: str | None = None,
) -> SessionReport:
    """Load a session into an engine's cache, ahead of the requests that will use it.

    Args:
        llm: a `vllm.LLM` that was started with sessions; or an `AsyncLLM`, and it is awaited.
        lora_request: the adapter, if the session has one.
        cache_salt: the salt, if the session has one.

    Raises:
        FormatError: the session is damaged.
        MismatchError: it is not one of this engine, or has images and the like; the message says
            in what it differs.
        ThawError: the engine has no sessions, or the load failed.
    """
    began = time.perf_counter()
    where = absolute(path)
    session = _read(where)
    if session.media:
        raise MismatchError(
            f"{where} has images or the like, which no file of thaw holds: it is loaded by the "
            "requests that bring them"
        )
    made = _tokens(_with_another(_ids(session)), cache_salt)
    output = await llm.generate(made, {"restore": where}, lora_request)
    said = _said(output)
    await llm.settle()
    short = output.num_cached_tokens < session.tokens
    if short or "missed" in said or "request_id" not in said:
        why = said.get("missed") or said.get("error") or _NO_CONNECTOR
        raise MismatchError(f"{where} was not restored: {why}")
    moved = checked(await llm.ask("session_loaded", said["request_id"]))
    return _report(where, moved, session.tokens, time.perf_counter() - began)


_NO_CONNECTOR = (
    "this engine has no sessions: start it with sessions=, or with ThawConnector in its "
    "kv_transfer_config"
)


async def _prompt(
    llm: Engine, prompt: Prompt, cache_salt: str | None
) -> tuple[Mapping[str, Any], int | None]:
    """Make a prompt of vLLM's, and say how many tokens of it are to be frozen, if not all."""
    if isinstance(prompt, Mapping):
        return dict(prompt) | ({"cache_salt": cache_salt} if cache_salt else {}), None
    ids = await _token_ids(llm, prompt)
    if not ids:
        raise ValueError("the prompt is empty")
    room = len(ids) + 2 <= llm.longest
    return _tokens(_with_another(ids) if room else ids, cache_salt), len(ids)


async def _token_ids(llm: Engine, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return await llm.tokenize(prompt)
    if hasattr(prompt, "prompt_token_ids"):
        return [*prompt.prompt_token_ids, *prompt.outputs[0].token_ids]
    return list(prompt)


def _with_another(ids: Sequence[int]) -> list[int]:
    # The last token of a prompt is always computed: without one more that would be one of ours.
    return [*ids, ids[-1]]


def _tokens(ids: Sequence[int], cache_salt: str | None) -> Mapping[str, Any]:
    return {"prompt_token_ids": list(ids)} | ({"cache_salt": cache_salt} if cache_salt else {})


def _ids(session: Session) -> Sequence[int]:
    return memoryview(session.token_ids).cast("I").tolist()


def _read(path: str) -> Session:
    shards = open_ranks(path)
    try:
        return Session.of(shards[0])
    finally:
        for each in shards:
            each.close()


def _said(output: Any) -> Mapping[str, Any]:
    found = getattr(output, "kv_transfer_params", None) or {}
    said: Mapping[str, Any] = found.get("thaw", {})
    return said


async def _ended(llm: Engine, snapshot_id: str) -> Sequence[Answer]:
    while True:
        answers = checked(await llm.ask("session_frozen", snapshot_id))
        if all(answer["ended"] for answer in answers):
            return answers
        await llm.wait(_EVERY_S)


async def _sealed(llm: Engine, where: str, snapshot_id: str, ranks: int) -> None:
    """Wait until what several ranks have frozen has its name.

    Raises:
        ThawError: it did not get it, or another has it by now.
    """
    if ranks == 1:
        return
    staged = staging_folder(where, snapshot_id)
    while staged.exists():
        await llm.wait(_EVERY_S)
    entry = read_entry(Path(where))
    if entry is None or entry.snapshot_id != snapshot_id:
        raise ThawError(
            f"{where} was not frozen: the engine's log says why, unless another engine has "
            "frozen to that name meanwhile"
        )


def _report(where: str, answers: Sequence[Answer], tokens: int, elapsed_s: float) -> SessionReport:
    return SessionReport(
        path=Path(where),
        nbytes=sum(answer["nbytes"] for answer in answers),
        elapsed_s=elapsed_s,
        tokens=tokens,
        ranks=len(answers),
    )
