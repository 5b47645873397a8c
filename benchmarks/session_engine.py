"""A process that freezes sessions, or one that restores them: `session_engine.py TASK ANSWER`.

As `rank_engine.py`, with actions of its own; each returns what will be a row of the results.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench_case import Times
from plain import write_plainly
from rank_engine import main
from session_beside import beside
from session_prompts import (
    ask,
    decode,
    last_moves,
    prompt_of,
    reset,
    session_ids,
    vocabulary_of,
)
from session_rows import PAGE_CACHE, PINNED

_SKIP = {"skip": True}
_OTHER = 1
"""Prompts of that kind are of no session."""
_NAMED_S = 60.0
_ON_HOST = torch.device("cpu")


def refill(llm: Any) -> int:
    """Replace the dummy weights."""
    return sum(llm.collective_rpc("refill_weights"))


def warm(llm: Any, lengths: list[int]) -> None:
    """Have vLLM do for the first time what has nothing to do with sessions."""
    for tokens in lengths:
        prompt = prompt_of(llm, tokens, other=_OTHER)
        ask(llm, prompt, 0, _SKIP)
        ask(llm, prompt, tokens, _SKIP)
        decode(llm, tokens, tokens, other=_OTHER, asked=_SKIP)
    reset(llm)


def compute(llm: Any, tokens: int, repeats: int, prefills: int) -> dict[str, Any]:
    """Time the first token of a prompt, computed, and from the cache in GPU memory, in turn."""
    prompt, computed, hits = prompt_of(llm, tokens), [], []
    for turn in range(repeats):
        if turn < prefills:
            reset(llm)
            computed.append(ask(llm, prompt, 0, _SKIP))
        hits.append(ask(llm, prompt, tokens, _SKIP))
    return {"tokens": tokens, "prefill_s": computed, "hit_s": hits}


def freeze(llm: Any, tokens: int, path: str, repeats: int) -> dict[str, Any]:
    """Freeze a session again and again, in turn with plain writes of as many bytes."""
    prompt, plain, called, moving = session_ids(tokens, vocabulary_of(llm)), Times(), [], []
    row: dict[str, Any] = {"tokens": tokens, "plain_s": plain}
    nbytes, _ = _frozen(llm, prompt, path)
    for _ in range(repeats):
        _remove(path)
        # Each write comes right after as many bytes were removed: memory that was not touched for
        # long is far slower.
        write_plainly(Path(path).parent, _ON_HOST, nbytes, "buffered", plain)
        called.append(_frozen(llm, prompt, path)[1])
        (moved,) = last_moves(llm, "frozen")
        moving.append(moved["elapsed_s"])
    row |= {"nbytes": nbytes, "route": moved["route"]}
    return row | {"samples_s": called, "moving_s": moving}


def from_cache(llm: Any, tokens: int) -> dict[str, Any]:
    """Decode behind what is in the cache."""
    return decode(llm, tokens, tokens)


def from_session(llm: Any, tokens: int) -> dict[str, Any]:
    """Decode behind what is in no cache but in the folder of sessions."""
    reset(llm)
    return decode(llm, tokens, tokens)


def from_prefill(llm: Any, tokens: int) -> dict[str, Any]:
    """Decode a prompt that is computed, without sessions: as a process does of itself."""
    reset(llm)
    return decode(llm, tokens, 0, asked=_SKIP)


def behind_other(llm: Any, tokens: int) -> dict[str, Any]:
    """Decode the same last token behind another prefix: what the cache holds must count."""
    reset(llm)
    return decode(llm, tokens, 0, other=_OTHER, asked=_SKIP)


def first(llm: Any, tokens: int, repeats: int) -> dict[str, Any]:
    """Time the first request of this process that a session serves, and then prefix hits."""
    prompt = prompt_of(llm, tokens)
    first_s = ask(llm, prompt, tokens)
    (moved,) = last_moves(llm, "loaded")
    hits = [ask(llm, prompt, tokens) for _ in range(repeats)]
    said = {"nbytes": moved["nbytes"], "moving_s": [moved["elapsed_s"]], "hit_s": hits}
    return {"tokens": tokens, "first_token_s": [first_s]} | said


def serve(llm: Any, tokens: int, path: str, place: str, repeats: int) -> dict[str, Any]:
    """Time requests that a session serves, prefix hits, and restores ahead of requests, in turn."""
    import thaw_vllm

    prompt, asked = prompt_of(llm, tokens), {"restore": path} if place == PAGE_CACHE else None
    said: dict[str, list[float]] = {}
    if place == PINNED:
        thaw_vllm.pin_engine(llm, path)

    def note(**seconds: float) -> None:
        for key, value in seconds.items():
            said.setdefault(key, []).append(value)

    for _ in range(repeats):
        reset(llm)
        note(first_token_s=ask(llm, prompt, tokens, asked))
        (moved,) = last_moves(llm, "loaded")
        note(moving_s=moved["elapsed_s"], hit_s=ask(llm, prompt, tokens))
        reset(llm)
        note(called_s=thaw_vllm.restore_session(llm, path).elapsed_s)
    if place == PINNED:
        thaw_vllm.unpin_engine(llm, path)
    row = {"place": place, "tokens": tokens, "nbytes": moved["nbytes"], "route": moved["route"]}
    return row | said


def freeze_again(llm: Any, tokens: int, path: str, again: str, ranks: int) -> dict[str, Any]:
    """Freeze what was restored, and compare both sessions byte by byte."""
    import thaw

    _frozen(llm, session_ids(tokens, vocabulary_of(llm)), again)
    found = [thaw.diff(path, again, rank=rank) for rank in range(ranks)]
    _remove(again)
    differ = sum(len(d.only_in_a) + len(d.only_in_b) + len(d.changed) for d in found)
    return {"tokens": tokens, "tensors": sum(d.tensors_compared for d in found), "differ": differ}


def bus(llm: Any, times: int) -> dict[str, Any]:
    """Say what the slowest rank's bus moves."""
    rates = llm.collective_rpc("bus_gbps", args=(times,))
    return {"gbps": [min(each) for each in zip(*rates, strict=True)]}


def beside_others(llm: Any, tokens: int, folder: str, rounds: int, freezes: int) -> list[Any]:
    """Freeze while other requests decode."""
    reset(llm)
    ask(llm, prompt_of(llm, tokens), 0, _SKIP)
    return beside(llm, tokens, Path(folder), rounds, freezes)


def _frozen(llm: Any, prompt: list[int], path: str) -> tuple[int, float]:
    """Freeze a session; return its bytes, and the seconds until it has its name.

    Raises:
        RuntimeError: it has not for long.
    """
    import thaw_vllm

    began = time.perf_counter()
    nbytes = thaw_vllm.freeze_session(llm, prompt, path).nbytes
    while not Path(path).exists():
        if time.perf_counter() > began + _NAMED_S:
            raise RuntimeError(f"{path} is not there {_NAMED_S:.0f} s after it was frozen")
        time.sleep(0.001)
    return nbytes, time.perf_counter() - began


def _remove(path: str) -> None:
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink()


ACTIONS: Mapping[str, Callable[..., Any]] = {
    "refill": refill,
    "warm": warm,
    "compute": compute,
    "freeze": freeze,
    "from_cache": from_cache,
    "from_session": from_session,
    "from_prefill": from_prefill,
    "behind_other": behind_other,
    "beside": beside_others,
    "first": first,
    "serve": serve,
    "freeze_again": freeze_again,
    "bus": bus,
}

if __name__ == "__main__":
    main(*sys.argv[1:], actions=ACTIONS)
