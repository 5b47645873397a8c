"""Freezes while other requests decode: when the others' tokens come, with freezes and without."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench_case import Times
from plain import write_plainly
from session_prompts import check_cached, last_moves, parameters, prompt_of

OTHERS = 16
_PROMPT, _FIRST_OTHER = 512, 2
_SETTLED, _LIMIT_S = 20, 60.0
FREEZES, HITS, ALONE = "freezes", "hits", "alone"
_ON_HOST = torch.device("cpu")


class Decoding:
    """Requests that decode together, watched from the loop that steps the engine.

    Attributes:
        intervals_s: from each token of a request to its next one, as they come out of the engine.
        ended: what other requests came to, by id.
    """

    def __init__(self, llm: Any) -> None:
        self._engine = llm.llm_engine
        self._last_s: dict[str, float | None] = {}
        self.intervals_s: list[float] = []
        self.ended: dict[str, Any] = {}

    def add(self, name: str, prompt: Any, wanted: Any, *, watched: bool = False) -> None:
        self._engine.add_request(name, prompt, wanted)
        if watched:
            self._last_s[name] = None

    def step(self) -> None:
        """Take what came out of the engine, and note when."""
        outputs, now = self._engine.step(), time.perf_counter()
        for output in outputs:
            if output.request_id not in self._last_s:
                if output.finished:
                    self.ended[output.request_id] = output
                continue
            if output.finished:
                raise RuntimeError(f"{output.request_id} has ended: the round is too long for it")
            self._note(output.request_id, now, len(output.outputs[0].token_ids))

    def _note(self, name: str, now: float, tokens: int) -> None:
        if not tokens:
            return
        before = self._last_s[name]
        if before is not None:
            # Should several tokens come at once, then all but the first of them took no time.
            self.intervals_s += [now - before, *[0.0] * (tokens - 1)]
        self._last_s[name] = now

    def until(self, over: Callable[[], bool], what: str) -> None:
        """Step until something is so.

        Raises:
            RuntimeError: it has become too late for that.
        """
        deadline = time.perf_counter() + _LIMIT_S
        while not over():
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{what} did not come in {_LIMIT_S:.0f} s")
            self.step()

    def stop(self) -> None:
        """Abort the requests that are watched, and take the rest."""
        self._engine.abort_request(list(self._last_s))
        self._last_s = {}
        while self._engine.has_unfinished_requests():
            self._engine.step()


class Rounds:
    """Rounds of one kind after the other, with the same requests that decode.

    Args:
        tokens: of the session, whose blocks are in the cache.
        freezes: how many a round has, one after the other.
    """

    def __init__(self, llm: Any, tokens: int, folder: Path, freezes: int) -> None:
        self._llm, self._tokens, self._folder, self._freezes = llm, tokens, folder, freezes
        self._prompt = prompt_of(llm, tokens)
        self._most = int(llm.llm_engine.vllm_config.model_config.max_model_len) - _PROMPT - 1
        self._span_s = 0.0
        self._count = 0

    def run(self, kind: str) -> dict[str, Any]:
        """Run a round; return the intervals of tokens, and how the freezes ended."""
        from vllm.sampling_params import RequestOutputKind

        decoding = Decoding(self._llm)
        wanted = parameters(self._most, {"skip": True}, output_kind=RequestOutputKind.DELTA)
        for other in range(OTHERS):
            prompt = prompt_of(self._llm, _PROMPT, other=_FIRST_OTHER + other)
            decoding.add(f"other-{self._count}-{other}", prompt, wanted, watched=True)
        decoding.until(lambda: len(decoding.intervals_s) >= _SETTLED * OTHERS, "the others' tokens")
        decoding.intervals_s.clear()
        began = time.perf_counter()
        paths = [self._once(kind, decoding, number) for number in range(self._freezes)]
        if kind == FREEZES:
            self._span_s = (time.perf_counter() - began) / self._freezes
        found: dict[str, Any] = {"intervals_s": list(decoding.intervals_s)}
        if kind == FREEZES:
            # The engine takes note of a freeze in a step after its end.
            decoding.until(lambda: len(self._moves(paths)) == len(paths), "the end of a freeze")
            found["moves"] = self._moves(paths)
            for path in paths:
                path.unlink()
        decoding.stop()
        self._count += 1
        return found

    def _moves(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        names = {str(path) for path in paths}
        moves = last_moves(self._llm, "frozen", self._freezes)
        return [each for each in moves if each["path"] in names]

    def _once(self, kind: str, decoding: Decoding, number: int) -> Path:
        """Have one freeze, or one request without, or nothing, for as long as a freeze takes.

        Intervals count from the request's end, when its freeze begins: what it computes holds up
        the others with a freeze and without.
        """
        counted = len(decoding.intervals_s)
        began, name = time.perf_counter(), f"asked-{self._count}-{number}"
        path = self._folder / f"{name}.thaw"
        if kind != ALONE:
            asked = {"freeze": str(path)} if kind == FREEZES else {"skip": True}
            decoding.add(name, self._prompt, parameters(asked=asked))
            decoding.until(lambda: name in decoding.ended, "the request's token")
            output = decoding.ended[name]
            check_cached(output, self._tokens)
            said = (output.kv_transfer_params or {}).get("thaw", {})
            if "error" in said:
                raise RuntimeError(f"{path} was not frozen: {said['error']}")
            del decoding.intervals_s[counted:]
        if kind == FREEZES:
            over: Callable[[], bool] = path.exists
        else:
            over = partial(_is_past, began + self._span_s)
        # With the token that was under way at the end: it may have been held up too.
        decoding.until(lambda: len(decoding.intervals_s) > counted and over(), "the end")
        return path


def beside(llm: Any, tokens: int, folder: Path, rounds: int, freezes: int) -> list[dict[str, Any]]:
    """Freeze a session that is cached while others decode; return a row for each kind of round."""
    run = Rounds(llm, tokens, folder, freezes)
    nbytes = run.run(FREEZES)["moves"][0]["nbytes"]
    plain = Times()
    rows = {kind: _row(kind, tokens) for kind in (FREEZES, HITS, ALONE)}
    for _ in range(rounds):
        write_plainly(folder, _ON_HOST, nbytes, "buffered", plain)
        for kind, row in rows.items():
            found = run.run(kind)
            intervals_s = found["intervals_s"]
            row["p99_s"].append(p99(intervals_s))
            row["median_s"].append(median(intervals_s))
            row["longest_s"].append(max(intervals_s))
            row["intervals"].append(len(intervals_s))
            row["moving_s"] += [each["elapsed_s"] for each in found.get("moves", ())]
    rows[FREEZES] |= {"nbytes": nbytes, "plain_s": plain}
    return list(rows.values())


def _is_past(moment_s: float) -> bool:
    return time.perf_counter() > moment_s


def _row(kind: str, tokens: int) -> dict[str, Any]:
    row: dict[str, Any] = {"name": kind, "tokens": tokens, "others": OTHERS}
    for key in ("p99_s", "median_s", "longest_s", "intervals", "moving_s"):
        row[key] = []
    return row


def p99(values: Sequence[float]) -> float:
    """Return the smallest value that 99 of 100 do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
