"""What workers hold of a model that was loaded in each way there is, and no engine around them."""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WITHOUT_ENGINE: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 256,
    "gpu_memory_utilization": 0.001,
    "dtype": "bfloat16",
    "worker_extension_cls": "extension.Extension",
}
"""Of vLLM; weights stay unpacked."""
OTHER_LIMITS = {"max_num_batched_tokens": 1024, "max_num_seqs": 8, "max_model_len": 128}
State = dict[str, str]


def load_in_all_ways(model: str, engine: Mapping[str, Any]) -> dict[str, Any]:
    """Load a model by vLLM's default loader and from snapshots; say what differs from the first.

    Snapshots are loaded beside a copy of the model's folder that has no weights. Kernels that were
    not compared yet are let through: here they are compared.
    """
    import thaw_vllm

    options, bare = {"model": model, **engine}, {"model": without_weights(model), **engine}
    loaded, live = f"{model}.thaw", f"{model} live.thaw"
    with worker(options) as first:
        expected = state_of(first)
        frozen = rpc(first, "freeze", live, "0" * 32, "auto", True)
    report = thaw_vllm.freeze(path=loaded, **(WITHOUT_ENGINE | options))
    differences = {
        "loaded": _loaded(bare, loaded, expected, OTHER_LIMITS),
        "processed": _loaded(bare, live, expected, {}),
        "restored": _restored(options, live, expected),
    }
    counts = {"tensors": report.tensors, "live": frozen["tensors"], "state": len(expected)}
    return counts | differences


def without_weights(model: str) -> str:
    """Copy of a model's folder what is no weights."""
    bare = f"{model} bare"
    ignored = shutil.ignore_patterns("*.safetensors*", "*.bin*")
    shutil.copytree(model, bare, ignore=ignored, dirs_exist_ok=True)
    return bare


def _loaded(
    options: Mapping[str, Any], path: str, expected: State, limits: Mapping[str, Any]
) -> list[str]:
    extra = {"snapshot": str(Path(path).resolve()), "verify": True, "allow_unverified": True}
    thawed = {"load_format": "thaw", "model_loader_extra_config": extra}
    with worker({**options, **thawed, **limits}) as found:
        return differences(state_of(found), expected)


def _restored(options: Mapping[str, Any], path: str, expected: State) -> list[str]:
    """Restore into a model whose weights were overwritten, where they are."""
    from thaw.vllm.weights.state import take_state

    with worker(options) as found:
        for tensor in take_state(found.get_model()).tensors.values():
            tensor.fill_(1)
        if not differences(state_of(found), expected):
            return ["nothing was overwritten"]
        rpc(found, "prepare", str(Path(path).resolve()), "auto")
        rpc(found, "restore")
        return differences(state_of(found), expected)


def rpc(found: Any, verb: str, *arguments: Any) -> Any:
    answer = found.thaw(verb, *arguments)
    assert "error" not in answer, f"{verb}: {answer['error']}: {answer['message']}"
    return answer


@contextmanager
def worker(options: Mapping[str, Any]) -> Iterator[Any]:
    """Start one that loads a model, in this process."""
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.v1.executor import Executor

    load_general_plugins()
    config = EngineArgs(**(WITHOUT_ENGINE | options)).create_engine_config()
    executor: Any = None
    try:
        executor = Executor.get_class(config)(config)
        yield executor.driver_worker.worker
    finally:
        if executor is not None:
            executor.shutdown()
        del executor
        cleanup_dist_env_and_memory()
        gc.collect()


def state_of(found: Any) -> State:
    """Digest every tensor of a worker's model, and say every float; memory for a batch aside."""
    from thaw.vllm.weights.scratch import derived_tables
    from thaw.vllm.weights.state import take_state

    model = found.get_model()
    state, tables = take_state(model), set(derived_tables(model))
    named = dict(model.named_buffers(remove_duplicate=False))
    tensors = {name: _digest(each) for name, each in state.tensors.items()}
    floats = {f"float {name}": each.value.hex() for name, each in state.floats.items()}
    return tensors | floats | {f"table {name}": _digest(named[name]) for name in tables}


def differences(found: State, expected: State) -> list[str]:
    names = sorted(found.keys() | expected.keys())
    return [
        f"{name}: {found.get(name)}, expected {expected.get(name)}"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def _digest(tensor: Any) -> str:
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    said = hashlib.sha256(plain.numpy().tobytes()).hexdigest()[:16]
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {said}"
