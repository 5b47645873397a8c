"""What thaw keeps in each worker of an engine, and what it can be asked to do there."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from thaw_format import JSON, Shard, Snapshot, ThawError
from torch import nn

from ..errors import MismatchError
from ..plugins.opening import open_snapshot
from ..restoring.pinning import PinnedSnapshot, pin
from .answers import REPORT, Answer, answering
from .readiness import check_alone, check_awake
from .weights.fingerprint import fingerprint_of, forget_fingerprint
from .weights.identity import LOADED, PROCESSED, check_identity, identify, rank_shard, stage_of
from .weights.scratch import clear_scratch
from .weights.transfer import PreparedState, compare_state, freeze_state, prepare_state

_AGENT = "_thaw_agent"
_workers: dict[int, weakref.ref[Any]] = {}
"""Workers of this process in order, by the identity of the configuration that each was given."""


class Agent:
    """Thaw in one worker.

    Attributes:
        pinned: snapshots whose pages are locked here, by the path that they were asked for by.
        prepared: a restore of which everything is decided, and what keeps its file open.
        broken: why the weights are undefined, if they are.
        caches_are_old: whether blocks in the cache may be of weights of before.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.pinned: dict[str, PinnedSnapshot] = {}
        self.broken: str | None = None
        self.prepared: tuple[PreparedState, ExitStack] | None = None
        self.caches_are_old = False
        self._fingerprint: str | None = None

    @classmethod
    def of(cls, worker: Any) -> Self:
        """Return a worker's agent, made when it is first asked for."""
        found = vars(worker).get(_AGENT)
        if found is None:
            found = cls(worker)
            setattr(worker, _AGENT, found)
        assert isinstance(found, cls)
        return found

    @property
    def model(self) -> nn.Module:
        """That of this rank."""
        model: nn.Module = self._worker.get_model()
        return model

    @property
    def rank(self) -> int:
        """That of vLLM's world, by which answers are told apart."""
        return int(self._worker.rank)

    def fingerprint(self) -> str:
        """Digest the weights of this rank as they stand, once until they change.

        Raises:
            ThawError: they are undefined, or asleep.
        """
        if self._fingerprint is None:
            check_awake()
            self._check_whole()
            self._fingerprint = fingerprint_of(self.model)
        return self._fingerprint

    def weights_change(self) -> None:
        """Take note that weights are about to change, or have."""
        self._fingerprint, self.caches_are_old = None, True
        forget_fingerprint(self.model)

    def weights_leave(self) -> None:
        """Take note that weights leave memory, or come back: the engine resets its caches then."""
        self._fingerprint = None

    def fence(self) -> None:
        """Wait until no session is loaded or frozen on this rank."""
        if (found := _session_worker()) is not None:
            found.fence()

    @answering
    def freeze(
        self, path: str, snapshot_id: str, backend: str, allow_unverified: bool = False
    ) -> Answer:
        """Freeze the live model of this rank."""
        check_awake()
        check_alone(self._worker)
        self._check_whole()
        report = freeze_state(
            self.model,
            path,
            stage=PROCESSED,
            identity=self._identity(),
            shard=self._shard(),
            snapshot_id=snapshot_id,
            backend=backend,
            allow_unverified=allow_unverified,
        )
        return _said(report)

    @answering
    def frozen(self) -> Answer:
        """Say what the loader froze on this rank, when it loaded the model."""
        found = getattr(self.model, REPORT)
        if isinstance(found, Exception):
            raise found
        return _said(found)

    @answering
    def prepare(self, path: str, backend: str) -> Answer:
        """Check that a snapshot is one of this engine and fits its model, before a byte moves."""
        self._forget()
        check_awake()
        check_alone(self._worker)
        if self._worker.vllm_config.kv_transfer_config is not None and _session_worker() is None:
            raise ThawError(
                "an engine with a kv_transfer_config keeps blocks of the old weights outside of "
                "its cache, where they would outlive a swap: swap the weights of one without"
            )
        with ExitStack() as stack:
            snapshot = stack.enter_context(self.opened(path))
            stage = stage_of(snapshot)
            if stage != PROCESSED:
                raise ThawError(
                    f"{path} is a {stage!r} snapshot, taken before vLLM processed the weights; a "
                    f"live engine takes {PROCESSED!r} ones, which thaw_vllm.freeze_engine makes"
                )
            check_identity(snapshot, self._identity())
            prepared = prepare_state(self.model, snapshot, backend=backend)
            self.prepared = prepared, stack.pop_all()
        return {}

    @answering
    def restore(self) -> Answer:
        """Restore into the live model of this rank what was prepared."""
        if self.prepared is None:
            raise ThawError("no restore was prepared")
        (prepared, stack), self.prepared = self.prepared, None
        with stack:
            path = prepared.tensors.plan.path
            self.fence()
            # Whatever happens from here on: only a restore that ends well clears it.
            self.broken = f"a restore from {path} did not end well"
            self.weights_change()
            report = prepared.restore()
            clear_scratch(self.model)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.broken = None
        return _said(report) | {"chunks_checked": report.chunks_checked}

    @answering
    def forget(self) -> Answer:
        """Drop what was prepared and will not be restored."""
        self._forget()
        return {}

    @answering
    def pin(self, path: str) -> Answer:
        """Lock the pages of this rank's file, so that restores from it run at the bus's limit.

        What was pinned under the path before is let go if the path names something else by now.
        """
        if path in self.pinned:
            try:
                self.pinned[path].check()
            except MismatchError:
                self._unpin(path)
        if path not in self.pinned:
            self.pinned[path] = pin(path, device=self._worker.device, rank=self._shard().rank)
        pinned = self.pinned[path]
        return {"nbytes": pinned.nbytes, "elapsed_s": pinned.elapsed_s}

    @answering
    def unpin(self, path: str) -> Answer:
        """Unlock them."""
        self._unpin(path)
        return {}

    @answering
    def compare(self, path: str) -> Answer:
        """List what differs between the live model of this rank and a snapshot, bit by bit."""
        check_awake()
        with open_snapshot(path, rank=self._shard().rank) as snapshot:
            stage = stage_of(snapshot)
            check_identity(snapshot, self._identity(stage))
            differences = compare_state(self.model, snapshot)
            if differences and stage == LOADED:
                raise MismatchError.of(
                    f"{path} was frozen before vLLM processed the weights, and they are processed "
                    "now",
                    differences,
                    "; what is loaded from it is compared in time by verify=True",
                )
            return {"differences": differences, "tensors": len(snapshot.tensors)}

    @answering
    def session_frozen(self, snapshot_id: str) -> Answer:
        """Say whether the freeze of a session has ended on this rank, and how."""
        return self._moved(_sessions().frozen.get(snapshot_id))

    @answering
    def session_loaded(self, request_id: str) -> Answer:
        """Say what was loaded from a session for a request; nothing if it was cached."""
        return self._moved(_sessions().loaded.get(request_id)) | {"ended": True}

    @staticmethod
    def _moved(moved: Any) -> Answer:
        if moved is None:
            return {"ended": False, "nbytes": 0, "elapsed_s": 0.0}
        if moved.reason:
            raise ThawError(moved.error)
        return {"ended": True, "nbytes": moved.nbytes, "elapsed_s": moved.elapsed_s}

    def _check_whole(self) -> None:
        if self.broken:
            raise ThawError(
                f"the weights of this engine are undefined: {self.broken}; restore them first"
            )

    def _shard(self) -> Shard:
        """Place a worker among those of its own engine; replicas can share a world."""
        return rank_shard(self._worker.vllm_config, self._worker.rank)

    def _identity(self, stage: str = PROCESSED) -> dict[str, JSON]:
        worker = self._worker
        return identify(worker.vllm_config, worker.model_config, worker.rank, stage)

    @contextmanager
    def opened(self, path: str) -> Iterator[Snapshot]:
        """Give what is pinned under a path, if the path still names it; else open it.

        Raises:
            MismatchError: the path names another file than the one that is pinned, or none.
        """
        pinned = self.pinned.get(path)
        found = pinned.in_use() if pinned else open_snapshot(path, rank=self._shard().rank)
        with found as snapshot:
            yield snapshot

    def _unpin(self, path: str) -> None:
        self._forget()
        if pinned := self.pinned.pop(path, None):
            pinned.close()

    def _forget(self) -> None:
        if self.prepared is not None:
            (_, stack), self.prepared = self.prepared, None
            stack.close()


def _session_worker() -> Any:
    """Return the worker's side of this process's connector, if that is one of thaw."""
    # An engine with a connector has imported it; without, vLLM need not be.
    kv_transfer = sys.modules.get("vllm.distributed.kv_transfer")
    if kv_transfer is None or not kv_transfer.has_kv_transfer_group():
        return None
    return getattr(kv_transfer.get_kv_transfer_group(), "session_worker", None)


def _sessions() -> Any:
    if (found := _session_worker()) is None:
        raise ThawError("this engine has no sessions: start it with ThawConnector")
    return found


def know(worker: Any) -> None:
    """Let what is given a worker's configuration find the worker's agent."""
    _workers.pop(id(worker.vllm_config), None)
    _workers[id(worker.vllm_config)] = weakref.ref(worker)


def is_last(vllm_config: Any) -> bool:
    """Say whether no worker of this process was given its configuration later."""
    return next(reversed(_workers), None) == id(vllm_config)


def agent_with(vllm_config: Any) -> Agent:
    """Return the agent of the worker that has a configuration."""
    worker = _workers[id(vllm_config)]()
    assert worker is not None
    return Agent.of(worker)


VERBS = {
    method.__name__: method
    for method in (
        *(Agent.freeze, Agent.frozen, Agent.prepare, Agent.restore, Agent.forget),
        *(Agent.pin, Agent.unpin, Agent.compare),
        *(Agent.session_frozen, Agent.session_loaded),
    )
}


def _said(report: Any) -> Answer:
    return {
        "path": str(report.path),
        "nbytes": report.nbytes,
        "elapsed_s": report.elapsed_s,
        "tensors": report.tensors,
        "backend": report.backend,
        "route": report.route,
    }
