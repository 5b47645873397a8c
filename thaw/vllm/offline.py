"""Freeze a folder by workers alone, and start an engine from what was frozen."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MismatchError
from .causes import RaisingCause
from .ranks import EngineReport, absolute, checked, destination, frozen
from .weights.identity import LOADED, STAGES

if TYPE_CHECKING:
    from vllm import LLM

_WITHOUT_ENGINE = {"enforce_eager": True, "gpu_memory_utilization": 0.001}
"""Options for workers that load a model and do no more: there has to be room for the weights, and
for nothing else."""


def load(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    tensor_parallel_size: int = 1,
    backend: str = "auto",
    verify: bool = False,
    allow_unverified: bool = False,
    sessions: str | os.PathLike[str] | None = None,
    **engine: Any,
) -> LLM:
    """Start an engine whose weights come from a snapshot.

    Args:
        model: the model's folder, of which only configuration and tokenizer are read.
        path: a snapshot with as many ranks as the engine will have.
        backend: what moves the bytes; see `thaw backends`.
        verify: whether every tensor is compared with the snapshot again after loading.
        allow_unverified: whether a processed snapshot may be of kernels that were never compared.
        sessions: a folder of KV sessions, which serve requests and which requests are frozen to.
        engine: other arguments of `vllm.LLM`.
    """
    from vllm import LLM

    if sessions is not None:
        engine = {"kv_transfer_config": connector_to(sessions), **engine}

    with RaisingCause() as cause:
        extra = {"snapshot": absolute(path), "backend": backend, "verify": verify}
        extra |= {"allow_unverified": allow_unverified, "errors_to": cause.folder}
        return LLM(
            model=os.fspath(model),
            load_format="thaw",
            model_loader_extra_config=extra,
            tensor_parallel_size=tensor_parallel_size,
            **engine,
        )


def connector_to(sessions: str | os.PathLike[str]) -> dict[str, Any]:
    """Make the `kv_transfer_config` of an engine that only this program asks."""
    return {
        "kv_connector": "ThawConnector",
        "kv_connector_module_path": "thaw_vllm",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"sessions": absolute(sessions), "any_path": True},
    }


def freeze(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    tensor_parallel_size: int = 1,
    stage: str | None = None,
    kind: str | None = None,
    backend: str = "auto",
    load_format: str = "auto",
    model_loader_extra_config: Mapping[str, Any] | None = None,
    allow_unverified: bool = False,
    **engine: Any,
) -> EngineReport:
    """Freeze a model's folder to a snapshot: its workers load it, and no engine starts.

    Nothing is profiled, no KV cache is made, no graph is captured.

    Args:
        stage: "loaded", if not given, freezes weights as vLLM lays them out, before it processes
            them; "processed" freezes what processing made of them.
        kind: what `stage` was called before.
        load_format: how the folder is loaded, like that of vLLM.
        allow_unverified: whether "processed" weights may be of kernels that were never compared.
        engine: other arguments of `vllm.EngineArgs`, like dtype= or quantization=.

    Raises:
        MismatchError: vLLM keeps weights where they cannot be read.
        FileExistsError: of several ranks, where a folder of that name holds other things.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    stage = _stage(stage, kind)
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, expected one of {', '.join(STAGES)}")
    load_general_plugins()
    ranks = tensor_parallel_size * int(engine.get("pipeline_parallel_size", 1))
    snapshot_id = secrets.token_hex(16)
    with destination(path, ranks, snapshot_id) as where, RaisingCause() as cause:
        extra = dict(model_loader_extra_config or {})
        if stage == LOADED:
            options = {"freeze_to": where, "snapshot_id": snapshot_id, "backend": backend}
            options |= {"load_format": load_format, "errors_to": cause.folder}
            extra = options | {"extra_config": extra}
            load_format = "thaw-freeze"
        config = EngineArgs(
            model=os.fspath(model),
            load_format=load_format,
            model_loader_extra_config=extra,
            tensor_parallel_size=tensor_parallel_size,
            **{**_WITHOUT_ENGINE, **engine},
        ).create_engine_config()
        _check_alone(config)
        live = where, snapshot_id, backend, allow_unverified
        return _freeze_by_workers(config, stage, where, live)


def _stage(stage: str | None, kind: str | None) -> str:
    if kind is None:
        return stage or LOADED
    if stage is not None:
        raise TypeError("give either stage= or kind=, which is what stage= was called before")
    warnings.warn("kind= is called stage= now", DeprecationWarning, stacklevel=3)
    return kind


def _check_alone(config: Any) -> None:
    if config.speculative_config is not None:
        raise MismatchError(
            "leave out speculative_config: a draft model might be frozen in place of the model "
            "that it drafts for"
        )
    if config.parallel_config.data_parallel_size > 1:
        raise MismatchError(
            "leave out data_parallel_size: replicas of a dense model load what was frozen of one, "
            "and those of a model with experts have other experts each, which live engines freeze"
        )


def _freeze_by_workers(
    config: Any, stage: str, where: str, live: tuple[str, str, str, bool]
) -> EngineReport:
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.v1.executor import Executor

    executor = None
    try:
        executor = Executor.get_class(config)(config)
        if stage == LOADED:
            answers = executor.collective_rpc("thaw", args=("frozen",))
        else:
            answers = executor.collective_rpc("thaw", args=("freeze", *live))
        return frozen(where, live[1], checked(answers))
    finally:
        if executor is not None:
            executor.shutdown()
        cleanup_dist_env_and_memory()
