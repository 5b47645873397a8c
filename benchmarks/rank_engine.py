"""A process of its own that starts one engine and asks things of it: `rank_engine.py TASK ANSWER`.

TASK is JSON: `engine`, the arguments of `vllm.LLM`, and `actions`, a list of names with arguments.
ANSWER is a file that holds what is known so far, whenever and however the process ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from compare_decoding import decode, stop

_TOKENS = 32


def _drop_weights(_: Any, folder: str) -> None:
    """Make room: what was loaded is not needed any more."""
    for file in Path(folder).glob("*.safetensors"):
        file.unlink()


def _freeze(llm: Any, path: str) -> dict[str, Any]:
    import thaw_vllm

    report = thaw_vllm.freeze_engine(llm, path)
    return {"nbytes": report.nbytes, "moving_s": report.elapsed_s, "tensors": report.tensors}


def _restore(llm: Any, path: str) -> dict[str, Any]:
    import thaw_vllm

    report = thaw_vllm.restore_engine(llm, path)
    return {"nbytes": report.nbytes, "moving_s": report.elapsed_s}


def _pin(llm: Any, path: str) -> None:
    import thaw_vllm

    thaw_vllm.pin_engine(llm, path)


def _verify(llm: Any, path: str) -> dict[str, Any]:
    import thaw_vllm

    found = thaw_vllm.verify(llm, path)
    return {"tensors": found.tensors, "differences": list(found.differences)}


def _decode(llm: Any) -> list[Any]:
    llm.reset_prefix_cache()
    return decode(llm, _TOKENS)


ACTIONS: Mapping[str, Callable[..., Any]] = {
    "decode": _decode,
    "drop_weights": _drop_weights,
    "freeze": _freeze,
    "pin": _pin,
    "restore": _restore,
    "verify": _verify,
}


def main(task: str, answer: str, *, actions: Mapping[str, Callable[..., Any]] = ACTIONS) -> None:
    """Start an engine and do what is asked, by the names of actions."""
    said: dict[str, Any] = {"done": []}

    def note(**more: Any) -> None:
        said.update(more)
        Path(answer).write_text(json.dumps(said))

    wanted = json.loads(task)
    began = time.perf_counter()
    from vllm import LLM

    note(import_s=time.perf_counter() - began)
    began = time.perf_counter()
    llm = LLM(**wanted["engine"])
    note(engine_s=time.perf_counter() - began)
    try:
        for name, *arguments in wanted["actions"]:
            began = time.perf_counter()
            value = actions[name](llm, *arguments)
            elapsed_s = time.perf_counter() - began
            said["done"].append({"action": name, "elapsed_s": elapsed_s, "value": value})
            note()
    finally:
        stop(llm)


if __name__ == "__main__":
    main(*sys.argv[1:])
