"""Which small models are compared with what the default loader gives, and on which engines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine_models import ARCHITECTURES, QUANTIZED, save
from engine_runs import ENGINE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from compare_decoding import KINDS, Case

DTYPES = ("bfloat16", "float32")
TWO_RANKS = ("llama", "qwen2", "mixtral")
"""Architectures that are compared with two ranks as well, where there is no GPU."""
_ONLINE = ("llama", "mixtral", "deepseek-v2")
"""Architectures that are quantized to fp8 while they are loaded, too."""
_CHOSEN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama to mxfp8": ("llama", {"quantization": "mxfp8"}),
    "llama-awq by marlin": ("llama-awq", {"linear_backend": "marlin"}),
    "mixtral to fp8 by marlin": ("mixtral", {"quantization": "fp8", "moe_backend": "marlin"}),
}
"""Models that options make run by other kernels, which process weights in another way."""
_SMALL = {"kv_cache_memory_bytes": 64 << 20, "block_size": 32, "gpu_memory_utilization": 0.1}
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        # Else the engine is in a process where packing weights cannot be switched off.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Else each of two ranks wants cores for itself, and a small machine has too few.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    },
    "cuda": {},
}
"""What the processes with the engines need, by the type of device."""


def on_cuda(models: Path, engine: dict[str, Any], *, online: bool = True) -> list[Case]:
    """Return every model and kind in bf16, with one rank.

    Args:
        models: the folder with the checkpoints, DTYPE/NAME.
        engine: arguments of `LLM` that take precedence.
        online: whether to add what vLLM quantizes while it loads it.
    """
    arguments = ENGINE | {"kv_cache_memory_bytes": 1 << 28} | engine
    cases = []
    for name in (*ARCHITECTURES, *QUANTIZED):
        model = str(models / "bfloat16" / name)
        cases += [Case(name, model, kind, arguments) for kind in KINDS]
        if online and name in _ONLINE:
            fp8 = arguments | {"quantization": "fp8"}
            cases.append(Case(f"{name} to fp8", model, "processed", fp8))
    for called, (name, options) in _CHOSEN.items() if online else ():
        model = str(models / "bfloat16" / name)
        cases.append(Case(called, model, "processed", arguments | options))
    return cases


def on_cpu(models: Path, engine: dict[str, Any]) -> list[Case]:
    """Return every architecture, dtype and kind with one rank, and some with two."""
    one, two = [(name, 1) for name in ARCHITECTURES], [(name, 2) for name in TWO_RANKS]
    return [
        Case(name, str(models / dtype / name), kind, _cpu_engine(dtype, kind, ranks) | engine)
        for name, ranks in (*one, *two)
        for dtype in DTYPES
        for kind in KINDS
    ]


def _cpu_engine(dtype: str, kind: str, ranks: int) -> dict[str, Any]:
    engine = ENGINE | _SMALL | {"dtype": dtype, "tensor_parallel_size": ranks}
    if ranks > 1 and kind == "processed":
        engine["worker_extension_cls"] = "unpacked.Unpacked"
    return engine


def save_models(cases: Sequence[Case]) -> None:
    """Write the checkpoints that are not there yet."""
    for path in dict.fromkeys(Path(case.model) for case in cases):
        if not path.exists():
            save(path.name, path, dtype=getattr(torch, path.parent.name))
