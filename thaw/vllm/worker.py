"""What every worker of an engine can be asked to do, by name, through `collective_rpc`.

Answers are plain values, errors too: they travel between processes by whatever means vLLM uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from thaw_format import JSON, Snapshot, ThawError

from ..errors import MismatchError
from ..pinning import PinnedSnapshot, pin
from ..selection import open_snapshot
from .configuration import keep_configuration
from .identity import LOADED, PROCESSED, check_identity, identify, kind_of, rank_shard
from .scratch import clear_scratch
from .transfer import compare_state, freeze_state, prepare_state

_PINNED = "_thaw_pinned"
_BROKEN = "_thaw_broken"
_PREPARED = "_thaw_prepared"
_NOTING = "_thaw_notes_configurations"
_WEIGHTS = "weights"
"""The tag of vLLM's sleep mode for the memory of weights."""
Answer = dict[str, Any]
ANSWERED = (ThawError, OSError, TypeError, ValueError)
"""Errors that are an answer; others end the worker."""


def _answering(method: Callable[..., Answer]) -> Callable[..., Answer]:
    @wraps(method)
    def answer(worker: Any, *args: Any, **kwargs: Any) -> Answer:
        try:
            return method(worker, *args, **kwargs) | {"rank": worker.rank}
        except ANSWERED as error:
            return {"rank": worker.rank, "error": type(error).__name__, "message": str(error)}

    return answer


@_answering
def thaw_freeze(
    worker: Any, path: str, snapshot_id: str, backend: str, allow_unverified: bool = False
) -> Answer:
    """Freeze the live model of this rank."""
    _check_awake()
    _check_alone(worker)
    _check_whole(worker)
    report = freeze_state(
        worker.get_model(),
        path,
        kind=PROCESSED,
        identity=_identity(worker),
        shard=rank_shard(worker.vllm_config, worker.rank),
        snapshot_id=snapshot_id,
        backend=backend,
        allow_unverified=allow_unverified,
    )
    return _said(report)


@_answering
def thaw_frozen(worker: Any) -> Answer:
    """Say what the loader froze on this rank, when it loaded the model."""
    from .loader import REPORT

    found = getattr(worker.get_model(), REPORT)
    if isinstance(found, Exception):
        raise found
    return _said(found)


@_answering
def thaw_prepare(worker: Any, path: str, backend: str) -> Answer:
    """Check that a snapshot is one of this engine and fits its model, before a byte moves."""
    _forget(worker)
    _check_awake()
    _check_alone(worker)
    if worker.vllm_config.kv_transfer_config is not None:
        raise ThawError(
            "an engine with a kv_transfer_config keeps blocks of the old weights outside of its "
            "cache, where they would outlive a swap: swap the weights of one without"
        )
    with ExitStack() as stack:
        snapshot = stack.enter_context(_opened(worker, path))
        kind = kind_of(snapshot)
        if kind != PROCESSED:
            raise ThawError(
                f"{path} is a {kind!r} snapshot, taken before vLLM processed the weights; a live "
                f"engine takes {PROCESSED!r} ones, which thaw_vllm.freeze_model_tp makes"
            )
        check_identity(snapshot, _identity(worker))
        prepared = prepare_state(worker.get_model(), snapshot, backend=backend)
        setattr(worker, _PREPARED, (prepared, stack.pop_all()))
    return {}


@_answering
def thaw_restore(worker: Any) -> Answer:
    """Restore into the live model of this rank what was prepared."""
    prepared, stack = vars(worker).pop(_PREPARED, (None, None))
    if prepared is None:
        raise ThawError("no restore was prepared")
    with stack:
        path = prepared.tensors.snapshot.path
        # Whatever happens from here on: only a restore that ends well clears it.
        setattr(worker, _BROKEN, f"a restore from {path} did not end well")
        report = prepared.restore()
        clear_scratch(worker.get_model())
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    setattr(worker, _BROKEN, None)
    return _said(report) | {"chunks_checked": report.chunks_checked}


@_answering
def thaw_forget(worker: Any) -> Answer:
    """Drop what was prepared and will not be restored."""
    _forget(worker)
    return {}


@_answering
def thaw_pin(worker: Any, path: str) -> Answer:
    """Lock the pages of this rank's file, so that restores from it run at the bus's limit.

    What was pinned under the path before is let go if the path names something else by now.
    """
    if path in _pinned(worker):
        try:
            _pinned(worker)[path].check()
        except MismatchError:
            _unpin(worker, path)
    if path not in _pinned(worker):
        _pinned(worker)[path] = pin(path, device=worker.device, rank=_rank(worker))
    pinned = _pinned(worker)[path]
    return {"nbytes": pinned.nbytes, "elapsed_s": pinned.elapsed_s}


@_answering
def thaw_unpin(worker: Any, path: str) -> Answer:
    """Unlock them."""
    _unpin(worker, path)
    return {}


@_answering
def thaw_compare(worker: Any, path: str) -> Answer:
    """List what differs between the live model of this rank and a snapshot, bit by bit."""
    _check_awake()
    with open_snapshot(path, rank=_rank(worker)) as snapshot:
        kind = kind_of(snapshot)
        check_identity(snapshot, _identity(worker, kind))
        differences = compare_state(worker.get_model(), snapshot)
        if differences and kind == LOADED:
            raise MismatchError.of(
                f"{path} was frozen before vLLM processed the weights, and they are processed now",
                differences,
                "; what is loaded from it is compared in time by verify=True",
            )
        return {"differences": differences, "tensors": len(snapshot.tensors)}


METHODS = (
    *(thaw_freeze, thaw_frozen, thaw_prepare, thaw_restore, thaw_forget),
    *(thaw_pin, thaw_unpin, thaw_compare),
)


def add_methods(worker_class: type) -> None:
    """Give a class of workers these methods."""
    for method in METHODS:
        setattr(worker_class, method.__name__, method)


def keep_configurations(worker_class: type) -> None:
    """Have workers note their model's configuration when they start: building the model changes it.

    Whatever loads the weights then, the live engine can be frozen.
    """
    start = worker_class.__init__  # type: ignore[misc]
    if hasattr(start, _NOTING):
        return

    @wraps(start)
    def noting(worker: Any, *args: Any, **kwargs: Any) -> None:
        start(worker, *args, **kwargs)
        keep_configuration(worker.model_config)

    setattr(noting, _NOTING, True)
    worker_class.__init__ = noting  # type: ignore[misc]


def _check_awake() -> None:
    """Refuse while an engine sleeps: the addresses of its weights have no memory then."""
    if not torch.cuda.is_initialized():
        return
    from vllm.device_allocator.cumem import CuMemAllocator

    allocator = CuMemAllocator.instance
    allocations = allocator.pointer_to_data.values() if allocator else ()
    if any(each.is_asleep and each.tag == _WEIGHTS for each in allocations):
        raise ThawError(
            "the engine sleeps, and its weights have no memory: call wake_up() first, for which "
            f"tags=[{_WEIGHTS!r}] is enough"
        )


def _check_alone(worker: Any) -> None:
    """Refuse where adapters share the model, or experts move in it: no weight says where."""
    if worker.vllm_config.lora_config is not None:
        raise ThawError(
            "an engine with enable_lora keeps adapters in its model, and a snapshot would have "
            "them without their names: freeze and swap the weights of one without"
        )
    if getattr(getattr(worker.vllm_config, "parallel_config", None), "enable_eplb", False):
        raise ThawError(
            "an engine with enable_eplb moves experts from place to place, and a snapshot would "
            "have them without saying which is where: freeze and swap the weights of one without"
        )


def _check_whole(worker: Any) -> None:
    if reason := getattr(worker, _BROKEN, None):
        raise ThawError(f"the weights of this engine are undefined: {reason}; restore them first")


def _rank(worker: Any) -> int:
    """Return a worker's rank among those of its own engine; replicas can share a world."""
    return rank_shard(worker.vllm_config, worker.rank).rank


def _identity(worker: Any, kind: str = PROCESSED) -> dict[str, JSON]:
    return identify(worker.vllm_config, worker.model_config, worker.rank, kind)


def _pinned(worker: Any) -> dict[str, PinnedSnapshot]:
    if not hasattr(worker, _PINNED):
        setattr(worker, _PINNED, {})
    found: dict[str, PinnedSnapshot] = getattr(worker, _PINNED)
    return found


@contextmanager
def _opened(worker: Any, path: str) -> Iterator[Snapshot]:
    """Give what is pinned under a path, if the path still names it; else open it.

    Raises:
        MismatchError: the path names another file than the one that is pinned, or none.
    """
    pinned = _pinned(worker).get(path)
    found = pinned.in_use() if pinned else open_snapshot(path, rank=_rank(worker))
    with found as snapshot:
        yield snapshot


def _unpin(worker: Any, path: str) -> None:
    _forget(worker)
    if pinned := _pinned(worker).pop(path, None):
        pinned.close()


def _forget(worker: Any) -> None:
    _, stack = vars(worker).pop(_PREPARED, (None, None))
    if stack is not None:
        stack.close()


def _said(report: Any) -> Answer:
    return {
        "path": str(report.path),
        "nbytes": report.nbytes,
        "elapsed_s": report.elapsed_s,
        "tensors": report.tensors,
        "backend": report.backend,
        "path_ran": report.path_ran,
    }
