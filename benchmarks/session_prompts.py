"""What the processes that freeze and restore sessions ask of their engines, and what they say."""

from __future__ import annotations

import time
from typing import Any

_LAST = 3
"""The token after a session: the last one of a prompt is always computed."""
_RESET_S = 10.0
TOKENS = 16
"""How many are decoded to be compared."""


def session_ids(tokens: int, vocabulary: int, *, other: int = 0) -> list[int]:
    """Make token ids; those of other lengths, or for other purposes, begin otherwise."""
    start = tokens + 7 * other
    return [(place * 7919 + start) % (vocabulary - 8) + 8 for place in range(tokens)]


def vocabulary_of(llm: Any) -> int:
    return int(llm.llm_engine.vllm_config.model_config.get_vocab_size())


def prompt_of(llm: Any, tokens: int, *, other: int = 0) -> dict[str, Any]:
    """Make a prompt of so many tokens of a session and one more."""
    return {"prompt_token_ids": [*session_ids(tokens, vocabulary_of(llm), other=other), _LAST]}


def parameters(tokens: int = 1, asked: dict[str, Any] | None = None, **more: Any) -> Any:
    """Ask for tokens, greedily.

    Args:
        asked: what the request asks of sessions.
    """
    from vllm import SamplingParams

    extra = {"kv_transfer_params": {"thaw": asked}} if asked else None
    options: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "detokenize": False}
    return SamplingParams(max_tokens=tokens, extra_args=extra, **options, **more)


def ask(
    llm: Any, prompt: dict[str, Any], cached: int, asked: dict[str, Any] | None = None
) -> float:
    """Ask for one token; return the seconds until `LLM.generate` has it.

    Args:
        cached: how many tokens of the prompt must not have been computed.

    Raises:
        RuntimeError: it were more, or less.
    """
    wanted = parameters(asked=asked)
    began = time.perf_counter()
    (output,) = llm.generate([prompt], wanted, use_tqdm=False)
    elapsed_s = time.perf_counter() - began
    check_cached(output, cached)
    return elapsed_s


def reset(llm: Any) -> None:
    """Have nothing cached. Blocks that a freeze has just held may be free only in a moment.

    Raises:
        RuntimeError: some are in use for long.
    """
    deadline = time.perf_counter() + _RESET_S
    while not llm.reset_prefix_cache():
        if time.perf_counter() > deadline:
            raise RuntimeError(f"the prefix cache could not be reset for {_RESET_S:.0f} s")
        time.sleep(0.01)


def check_cached(output: Any, cached: int) -> None:
    """See that a request was served from where it should.

    Raises:
        RuntimeError: it was not.
    """
    if output.num_cached_tokens != cached:
        said = getattr(output, "kv_transfer_params", None)
        raise RuntimeError(
            f"{output.num_cached_tokens:,} of {len(output.prompt_token_ids):,} tokens were cached, "
            f"expected {cached:,}; the connector said {said}"
        )


def decode(
    llm: Any, tokens: int, cached: int, *, other: int = 0, asked: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Decode greedily behind a session; return token ids, and each one's logprobs."""
    wanted = parameters(TOKENS, asked, logprobs=3)
    prompt = prompt_of(llm, tokens, other=other)
    (output,) = llm.generate([prompt], wanted, use_tqdm=False)
    check_cached(output, cached)
    found = output.outputs[0]
    steps = [sorted((key, said.logprob) for key, said in step.items()) for step in found.logprobs]
    return {"tokens": tokens, "token_ids": list(found.token_ids), "logprobs": steps}


def last_moves(llm: Any, what: str, count: int = 1) -> list[dict[str, Any]]:
    """Say how the last loads or freezes ended: the bytes of all ranks, the slowest's time.

    Raises:
        RuntimeError: one failed.
    """
    ranks = llm.collective_rpc("last_moves", args=(what, count))
    for each in (moved for rank in ranks for moved in rank):
        if each["reason"]:
            raise RuntimeError(f"{each['path']}: {each['error']}")
    joined = []
    for moves in zip(*ranks, strict=True):
        nbytes, elapsed_s = (sum(m["nbytes"] for m in moves), max(m["elapsed_s"] for m in moves))
        one = moves[0]
        said = {"path": one["path"], "route": one["route"]}
        joined.append({"nbytes": nbytes, "elapsed_s": elapsed_s} | said)
    return joined
