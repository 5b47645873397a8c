"""Between a model on one rank and a snapshot: freeze, restore, verify."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import torch
from thaw_format import Shard, Snapshot
from torch import nn

from ..backend import Backend
from ..census import take_census
from ..copying import bytes_of
from ..errors import MismatchError
from ..filling import plan_into
from ..freezing import freeze
from ..matching import literal, match
from ..pinning import PinnedSnapshot
from ..reports import FreezeReport, RestoreReport
from ..restoring import check_twins, restore
from ..selection import select_backend
from .identity import LOADED, PROCESSED, floats_of, kind_of, record
from .state import ModelState, take_state

_log = logging.getLogger("vllm.thaw")


def freeze_state(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    kind: str,
    identity: Mapping[str, str],
    shard: Shard,
    snapshot_id: str | None = None,
    backend: str | Backend = "auto",
) -> FreezeReport:
    """Freeze all that a model computes with on this rank.

    Raises:
        MismatchError: the engine keeps weights where they cannot be read.
    """
    state = take_state(model)
    _check_readable(model, state)
    floats = {name: each.value for name, each in state.floats.items()}
    return freeze(
        state.tensors,
        path,
        backend=backend,
        shard=shard,
        snapshot_id=snapshot_id,
        metadata=record(kind, identity, floats),
    )


def restore_state(
    model: nn.Module, snapshot: Snapshot | PinnedSnapshot, *, backend: str | Backend = "auto"
) -> RestoreReport:
    """Fill all that a model computes with, where it is, and set what was derived from weights.

    Raises:
        MismatchError: the model and the snapshot differ; nothing has moved.
        FormatError: the snapshot is damaged; the model's weights are undefined then.
    """
    began = time.perf_counter()
    state, floats = _fit(model, header(snapshot))
    if isinstance(snapshot, PinnedSnapshot):
        report = snapshot.restore(into=state.tensors, backend=backend).report
    else:
        report = restore(snapshot, into=state.tensors, backend=backend).report
    for name, value in floats.items():
        if state.floats[name].value != value:
            state.floats[name].set(value)
    _log_time(report, began)
    return report


def check_state(model: nn.Module, snapshot: Snapshot, *, backend: str | Backend = "auto") -> None:
    """Check that a snapshot fits a model, and that a backend can fill it. Nothing moves.

    Raises:
        MismatchError: names, dtypes, shapes or ties differ.
        BackendError: the backend is unknown or unavailable.
    """
    state, _ = _fit(model, snapshot)
    targets = match(snapshot, take_census(state.tensors), None, strict=True).targets
    check_twins(snapshot, plan_into(snapshot, targets), targets, backend)
    for device in {tensor.device for tensor in state.tensors.values()}:
        select_backend(backend, "read", device, snapshot.path)


def header(snapshot: Snapshot | PinnedSnapshot) -> Snapshot:
    """Return the snapshot itself, where its files are pinned."""
    return snapshot.snapshot if isinstance(snapshot, PinnedSnapshot) else snapshot


def _fit(model: nn.Module, snapshot: Snapshot) -> tuple[ModelState, dict[str, float]]:
    """List what a model computes with and the snapshot's floats, where both name the same."""
    state, floats = take_state(model), floats_of(snapshot)
    if kind_of(snapshot) == PROCESSED:
        _check_readable(model, state)
    _check_names(snapshot, state, floats)
    return state, floats


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
    whole = all(tensor.numel() or tensor.device.type != "cpu" for tensor in state.tensors.values())
    if whole and not state.handles:
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


def _log_time(report: RestoreReport, began: float) -> None:
    elapsed_s = time.perf_counter() - began
    _log.info(
        "restored %d tensors, %.2f GB, in %.3f s (%.1f GB/s by %s, %s)",
        report.tensors,
        report.nbytes / 1e9,
        elapsed_s,
        report.nbytes / elapsed_s / 1e9,
        report.backend,
        report.path_ran,
    )
