"""Between a model on one rank and a snapshot: freeze, restore, verify."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from thaw_format import JSON, Shard, Snapshot, collector_paused
from torch import nn

from ...errors import MismatchError
from ...freezing import freeze
from ...reports import FreezeReport, RestoreReport
from ...restoring.api import Prepared, prepare, restore
from ...restoring.matching import literal
from ...seam.backend import Backend
from ...tensors.elements import bytes_of
from .identity import LOADED, PROCESSED, floats_of, record, stage_of
from .kernels import check_kernels, check_verified, kernels_of, record_kernels
from .state import Float, ModelState, take_state

_log = logging.getLogger("vllm.thaw")


def freeze_state(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    stage: str,
    identity: Mapping[str, JSON],
    shard: Shard,
    snapshot_id: str | None = None,
    backend: str | Backend = "auto",
    allow_unverified: bool = False,
) -> FreezeReport:
    """Freeze all that a model computes with on this rank.

    Args:
        allow_unverified: whether weights may be processed for kernels that were never compared.

    Raises:
        MismatchError: the engine keeps weights where they cannot be read, or they are processed
            for kernels that were never compared with a snapshot.
    """
    state = take_state(model)
    _check_readable(model, state)
    kernels = None
    if stage == PROCESSED:
        found = kernels_of(model)
        check_verified(found, allow=allow_unverified)
        kernels = record_kernels(found)
    floats = {name: each.value for name, each in state.floats.items()}
    return freeze(
        state.tensors,
        path,
        backend=backend,
        shard=shard,
        snapshot_id=snapshot_id,
        metadata=record(stage, identity, floats, kernels),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PreparedState:
    """A restore of all that a model computes with, checked and not begun.

    Attributes:
        floats: each with its value in the snapshot.
        elapsed_s: how long preparing it took.
    """

    tensors: Prepared
    floats: tuple[tuple[Float, float], ...]
    elapsed_s: float

    def restore(self) -> RestoreReport:
        """Move the bytes, and set what was derived from weights.

        Raises:
            FormatError: the snapshot is damaged; the model's weights are undefined then.
        """
        report = self.tensors.restore().report
        for place, value in self.floats:
            if place.value != value:
                place.set(value)
        _log_time(report, self.elapsed_s + report.elapsed_s)
        return report


def prepare_state(
    model: nn.Module, snapshot: Snapshot, *, backend: str | Backend = "auto"
) -> PreparedState:
    """Check that a snapshot fits a model, and plan to fill all that it computes with, where it is.

    Raises:
        MismatchError: names, dtypes, shapes or ties differ.
        BackendError: the backend is unknown or unavailable.
    """
    began = time.perf_counter()
    with collector_paused():
        state, floats = take_state(model), floats_of(snapshot)
        if stage_of(snapshot) == PROCESSED:
            _check_readable(model, state)
            check_kernels(snapshot, model)
        _check_names(snapshot, state, floats)
        tensors = prepare(snapshot, state.tensors, backend)
    derived = tuple((state.floats[name], value) for name, value in floats.items())
    return PreparedState(tensors, derived, time.perf_counter() - began)


def compare_state(
    model: nn.Module, snapshot: Snapshot, *, backend: str | Backend = "auto"
) -> list[str]:
    """Compare every tensor and float of a model with a snapshot, bit by bit; list differences."""
    state, floats = take_state(model), floats_of(snapshot)
    _check_names(snapshot, state, floats)
    differences = [
        f"{name!r} is {state.floats[name].value!r}, {value!r} in the snapshot"
        for name, value in floats.items()
        if state.floats[name].value != value
    ]
    for name, tensor in state.tensors.items():
        # One at a time: there may be no room for all of them again.
        expected = restore(snapshot, names=literal(name), device=tensor.device, backend=backend)
        if not _same(expected[name], tensor):
            differences.append(f"{name!r} differs")
    return differences


def _check_names(snapshot: Snapshot, state: ModelState, floats: Mapping[str, float]) -> None:
    """Refuse anything that only one side has: what is not restored would be garbage."""
    differences = [
        *(f"{name!r} is not in the snapshot" for name in state.tensors.keys() - snapshot.tensors),
        *(f"{name!r} is not in the model" for name in snapshot.tensors.keys() - state.tensors),
        *(f"the float {name!r} is not in the snapshot" for name in state.floats.keys() - floats),
        *(f"the float {name!r} is not in the model" for name in floats.keys() - state.floats),
    ]
    if differences:
        count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
        what = f"{snapshot.path} does not fit the model: {count}"
        raise MismatchError.of(what, sorted(differences))


def _check_readable(model: nn.Module, state: ModelState) -> None:
    """Refuse an engine that computes with weights packed into handles of a library."""
    if state.is_readable:
        return
    packed = [
        name
        for name, parameter in model.named_parameters()
        if not parameter.numel() and parameter.device.type == "cpu"
    ]
    packed += [name for name in state.handles if name not in packed]
    if packed:
        raise MismatchError.of(
            "this engine packed weights into memory of oneDNN, where they cannot be read",
            [repr(name) for name in packed],
            f"; freeze the model as {LOADED!r}, with `thaw freeze --model`",
        )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.equal(bytes_of(one), bytes_of(other))


def _log_time(report: RestoreReport, elapsed_s: float) -> None:
    _log.info(
        "restored %d tensors, %.2f GB, in %.3f s (%.1f GB/s by %s, %s)",
        report.tensors,
        report.nbytes / 1e9,
        elapsed_s,
        report.nbytes / elapsed_s / 1e9,
        report.backend,
        report.route,
    )
