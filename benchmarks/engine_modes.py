"""Prove on a GPU that CUDA graphs and sleep mode work on with thaw: what is decoded stays equal.

python benchmarks/engine_modes.py --folder DIR --out FILE

Every mode runs in fresh processes, the default loader first, and beside the other modes. Adds
`modes` to the JSON in FILE.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from engine_models import save
from engine_runs import ENGINE
from engines import Results

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from compare_decoding import decode, stop

_MODEL = "llama"
_TOKENS = 64
_LIMIT_S = 240
MODES: Mapping[str, dict[str, Any]] = {
    "CUDA graphs": {"enforce_eager": False},
    "sleep mode": {"enable_sleep_mode": True},
}
"""Arguments of `LLM`."""


def _default(llm: Any, snapshot: str) -> dict[str, Any]:
    import thaw_vllm

    said = {"decoded": decode(llm, _TOKENS)}
    thaw_vllm.freeze_engine(llm, snapshot)
    return said


def _graphs(llm: Any, snapshot: str) -> dict[str, Any]:
    """Restore under graphs that were captured before."""
    import thaw_vllm

    said: dict[str, Any] = {"loaded": decode(llm, _TOKENS)}
    thaw_vllm.restore_engine(llm, snapshot)
    return said | {"restored in place": decode(llm, _TOKENS)}


def _sleep(llm: Any, snapshot: str) -> dict[str, Any]:
    """Sleep and wake up; weights that were discarded are restored in place."""
    import thaw_vllm

    said: dict[str, Any] = {"loaded": decode(llm, _TOKENS)}
    llm.sleep(level=1)
    llm.wake_up()
    said["after a sleep of level 1"] = decode(llm, _TOKENS)
    llm.sleep(level=2)
    said["a restore is refused while it sleeps"] = _is_refused(llm, snapshot)
    llm.wake_up(tags=["weights"])
    thaw_vllm.restore_engine(llm, snapshot)
    llm.wake_up(tags=["kv_cache"])
    said["after a sleep of level 2 and a restore"] = decode(llm, _TOKENS)
    return said


def _is_refused(llm: Any, snapshot: str) -> bool:
    import thaw
    import thaw_vllm

    try:
        thaw_vllm.restore_engine(llm, snapshot)
    except thaw.ThawError as error:
        return "the engine sleeps" in str(error)
    return False


ACTIONS: Mapping[str, Callable[[Any, str], dict[str, Any]]] = {
    "CUDA graphs": _graphs,
    "sleep mode": _sleep,
}


def _child(role: str, mode: str, folder: Path) -> int:
    from vllm import LLM

    import thaw_vllm

    engine = ENGINE | MODES[mode] | {"kv_cache_memory_bytes": 1 << 28}
    model, snapshot = str(folder / _MODEL), str(folder / f"{mode}.thaw")
    try:
        if role == "default":
            llm = LLM(model=model, **engine)
            said = _default(llm, snapshot)
        else:
            llm = thaw_vllm.load(model, snapshot, **engine)
            said = ACTIONS[mode](llm, snapshot)
        stop(llm)
    except Exception as error:  # noqa: BLE001 - the other modes go on
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"{mode}-{role}.json").write_text(json.dumps(said))
    return 0


def _run(mode: str, folder: Path) -> dict[str, Any]:
    answers, began = {}, time.perf_counter()
    for role in ("default", "thaw"):
        answers[role] = _answer(role, mode, folder)
    row: dict[str, Any] = {"mode": mode, "engine": MODES[mode], "model": _MODEL}
    row["elapsed_s"] = time.perf_counter() - began
    errors = [answer["error"] for answer in answers.values() if "error" in answer]
    if errors:
        return row | {"passed": False, "error": errors[0]}
    expected = answers["default"]["decoded"]
    found = {what: each in (expected, True) for what, each in answers["thaw"].items()}
    tokens = sum(len(tokens) for tokens, _ in expected)
    return row | {"passed": all(found.values()), "tokens": tokens, "found": found}


def _answer(role: str, mode: str, folder: Path) -> dict[str, Any]:
    """Run a fresh process, and return what it says."""
    command = [sys.executable, __file__, "--folder", str(folder), "--role", role, "--mode", mode]
    try:
        with (folder / f"{mode}-{role}.log").open("w") as log:
            subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=True
            )
    except subprocess.SubprocessError as error:
        return {"error": f"{role}: {error}"}
    answer: dict[str, Any] = json.loads((folder / f"{mode}-{role}.json").read_text())
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for models, snapshots and logs")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", help="what to say was measured, where git is not at hand")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return _child(args.role, args.mode, args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    results = Results(args.out, torch.device("cuda"), args.commit)
    save(_MODEL, args.folder / _MODEL)
    with ThreadPoolExecutor(len(MODES)) as pool:
        rows = list(pool.map(lambda mode: _run(mode, args.folder), MODES))
    results.add("modes", rows)
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
