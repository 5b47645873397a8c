"""What users call: freeze, load and restore whole engines, all ranks of them."""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw_format import ThawError, check_replaceable, place_of, staging_folder

from ..errors import MismatchError
from ..freezing import finish_ranks
from ..plugins.endings import check_ending
from ..reports import Report
from .causes import RaisingCause, known_error
from .serving import undefined_weights
from .weights.identity import LOADED, STAGES

if TYPE_CHECKING:
    from vllm import LLM

_WITHOUT_ENGINE = {"enforce_eager": True, "gpu_memory_utilization": 0.001}
"""Options for workers that load a model and do no more: there has to be room for the weights, and
for nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport(Report):
    """What a whole engine moved: the bytes of all ranks, the time of the slowest.

    Attributes:
        tensors: of all ranks.
        backends: that of each rank.
    """

    path: Path
    ranks: int
    tensors: int
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineComparison:
    """What of a live engine differs from a snapshot, rank by rank; empty where nothing does."""

    tensors: int
    differences: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.differences)


def load(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    tensor_parallel_size: int = 1,
    backend: str = "auto",
    verify: bool = False,
    allow_unverified: bool = False,
    **engine: Any,
) -> LLM:
    """Start an engine whose weights come from a snapshot.

    Args:
        model: the model's folder, of which only configuration and tokenizer are read.
        path: a snapshot with as many ranks as the engine will have.
        backend: what moves the bytes; see `thaw backends`.
        verify: whether every tensor is compared with the snapshot again after loading.
        allow_unverified: whether a processed snapshot may be of kernels that were never compared.
        engine: other arguments of `vllm.LLM`.
    """
    from vllm import LLM

    with RaisingCause() as cause:
        extra = {"snapshot": _absolute(path), "backend": backend, "verify": verify}
        extra |= {"allow_unverified": allow_unverified, "errors_to": cause.folder}
        return LLM(
            model=os.fspath(model),
            load_format="thaw",
            model_loader_extra_config=extra,
            tensor_parallel_size=tensor_parallel_size,
            **engine,
        )


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
    with _destination(path, ranks, snapshot_id) as where, RaisingCause() as cause:
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
        return _frozen(where, live[1], _checked(answers))
    finally:
        if executor is not None:
            executor.shutdown()
        cleanup_dist_env_and_memory()


def freeze_engine(
    llm: LLM,
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    allow_unverified: bool = False,
) -> EngineReport:
    """Freeze the weights of a live engine, processed as they are, every rank to its own file.

    Args:
        allow_unverified: whether they may be of kernels that were never compared with a snapshot.

    Raises:
        MismatchError: the engine keeps weights where they cannot be read, or they are of kernels
            that were never compared.
        FileExistsError: of several ranks, where a folder of that name holds other things.
        ThawError: a rank failed; the message says which.
    """
    snapshot_id = secrets.token_hex(16)
    with _destination(path, _world_size(llm), snapshot_id) as where:
        wish = where, snapshot_id, backend, allow_unverified
        answers = llm.collective_rpc("thaw", args=("freeze", *wish))
        return _frozen(where, snapshot_id, _checked(answers))


def restore_engine(
    llm: LLM, path: str | os.PathLike[str], *, backend: str = "auto", wait_s: float = 0.0
) -> EngineReport:
    """Swap the weights of a live engine in place, for those of a `processed` snapshot.

    Addresses stay, so CUDA graphs do; the prefix and encoder caches are reset. Where the path was
    pinned by `pin_engine`, the bytes come from there. If a rank fails once bytes have moved, the
    engine refuses requests until a restore ends well.

    Args:
        wait_s: how many seconds requests that run are given to end.

    Raises:
        ThawError: requests are running, or a rank failed; the message says which.
        MismatchError: the snapshot is not of this engine; nothing has moved.
    """
    where = _absolute(path)
    with undefined_weights(llm, where, wait_s, lambda: _prepare(llm, where, backend)):
        answers = _checked(llm.collective_rpc("thaw", args=("restore",)))
        if not llm.reset_prefix_cache():
            raise ThawError("the prefix cache of the old weights could not be reset")
        llm.llm_engine.reset_encoder_cache()
    return _report(where, answers)


def _prepare(llm: LLM, where: str, backend: str) -> None:
    answers = llm.collective_rpc("thaw", args=("prepare", where, backend))
    if any("error" in answer for answer in answers):
        llm.collective_rpc("thaw", args=("forget",))
    _checked(answers)


def pin_engine(llm: LLM, path: str | os.PathLike[str]) -> None:
    """Lock each rank's file in the memory of its worker, for `restore_engine`."""
    _checked(llm.collective_rpc("thaw", args=("pin", _absolute(path))))


def unpin_engine(llm: LLM, path: str | os.PathLike[str]) -> None:
    """Unlock what `pin_engine` locked."""
    _checked(llm.collective_rpc("thaw", args=("unpin", _absolute(path))))


def verify(llm: LLM, path: str | os.PathLike[str]) -> EngineComparison:
    """Compare every tensor of a live engine, in place, with a snapshot, bit by bit.

    Raises:
        MismatchError: the snapshot is not of this engine.
    """
    answers = _checked(llm.collective_rpc("thaw", args=("compare", _absolute(path))))
    return EngineComparison(
        tensors=sum(answer["tensors"] for answer in answers),
        differences=tuple(
            f"rank {answer['rank']}: {line}" for answer in answers for line in answer["differences"]
        ),
    )


def _absolute(path: str | os.PathLike[str]) -> str:
    """Name a path so that every worker finds it."""
    return os.fspath(Path(path).resolve())


def _world_size(llm: LLM) -> int:
    return int(llm.llm_engine.vllm_config.parallel_config.world_size)


@contextmanager
def _destination(path: str | os.PathLike[str], ranks: int, snapshot_id: str) -> Iterator[str]:
    """Name what is frozen to; of several ranks a block that fails leaves no files behind."""
    where = place_of(path)
    check_ending(where, "thaw")
    if ranks > 1:
        check_replaceable(where)
    try:
        yield os.fspath(where)
    except BaseException:
        shutil.rmtree(staging_folder(where, snapshot_id), ignore_errors=True)
        raise


def _frozen(where: str, snapshot_id: str, answers: Sequence[Mapping[str, Any]]) -> EngineReport:
    if len(answers) > 1:
        finish_ranks(where, snapshot_id=snapshot_id)
    return _report(where, answers)


def _report(where: str, answers: Sequence[Mapping[str, Any]]) -> EngineReport:
    return EngineReport(
        path=Path(where),
        nbytes=sum(answer["nbytes"] for answer in answers),
        elapsed_s=max(answer["elapsed_s"] for answer in answers),
        ranks=len(answers),
        tensors=sum(answer["tensors"] for answer in answers),
        backends=tuple(answer["backend"] for answer in answers),
    )


def _checked(answers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Raise the error of the first rank that had one."""
    for answer in answers:
        if "error" in answer:
            raise known_error(answer["error"], f"rank {answer['rank']}: {answer['message']}")
    return answers
