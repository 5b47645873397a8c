"""Restore: from a file to tensors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from thaw_format import (
    ChecksumError,
    ShardFile,
    Snapshot,
    Source,
    ThawError,
    UnparsedShard,
    as_integers,
    collector_paused,
)
from torch import nn
from torch.autograd.graph import increment_version

from ..errors import MismatchError
from ..plugins.choosing import select_backend
from ..plugins.opening import StrPath, open_one, recognize
from ..reports import Restored, RestoreReport
from ..seam.backend import Backend, Progress, Transfer
from ..tensors.census import take_census
from ..tensors.elements import copy_exactly
from ..tensors.stated import settle
from ..tensors.unfilled import warn_of_unfilled
from .damage import named
from .destination import Destination, Storages
from .into_targets import plan_into
from .matching import Match, literal, match, select_names, with_new_memory
from .new_memory import is_worth_it, plan_ahead, plan_arena, plan_payload
from .own_storages import plan_own
from .plan import Made, RestorePlan

_TO_THE_CALLER = 4
"""How many calls there are from a warning to who called `restore`."""


def restore(
    path: StrPath | Source | Snapshot,
    *,
    into: nn.Module | Mapping[str, torch.Tensor] | None = None,
    device: str | torch.device | None = None,
    backend: str | Backend = "auto",
    names: str | Sequence[str] | None = None,
    strict: bool = True,
    rank: int | None = None,
    storages: Storages = "shared",
    arena: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore tensors, bit-identical, from a snapshot or checkpoint of any known format.

    Args:
        path: a file or folder, a source, which is closed at the end, or a snapshot opened by
            `thaw.open`.
        into: a module or a mapping whose tensors are filled where they are; without it, new tensors
            are made.
        device: where new tensors go; the CPU if not given. Not to be given with `into`.
        backend: a name, "auto", or a `Backend`.
        names: shell-style patterns of the tensors to restore; all others are left alone.
        strict: with False, names that only one side has are left alone instead of an error.
        rank: which rank, where the snapshot has several. Not to be given with an open snapshot.
        storages: of new tensors. With "shared" all are views of one allocation, which is quickest,
            and which lives as long as one of them. With "own" each storage of the snapshot becomes
            one of its own, for `torch.save`, safetensors' `save_model` and what else looks at
            storages, and so that each tensor's memory is freed with it. Tied tensors stay tied.
        arena: memory for all tensors, which become views of it: a contiguous 1-D uint8 tensor of
            at least `thaw.open(path).payload_nbytes` bytes on any device, into which the payload
            of a `.thaw` file goes as it is laid out. To be given alone.
        progress: called with the number of bytes just moved.

    Returns:
        A mapping of the restored tensors by name; its `report` says what was done.

    Raises:
        FormatError: the file is damaged; `into` is untouched where the header shows it. After a
            `ChecksumError` in the payload, the contents of `into` are undefined.
        MismatchError: the target does not fit; it is untouched, unless a module does not take state
            that only its own methods can set (`set_extra_state`, `load_state_dict`).
        BackendError: the backend is unknown, unavailable, or failed.

    Warns:
        UnfilledWarning: the snapshot lacks buffers of a module to which nothing was written since
            it was made.
    """
    to = Destination(into, device, storages, arena, names, strict)
    if isinstance(path, Snapshot):
        if rank is not None:
            raise TypeError("give rank= with a path: a snapshot that is open is that of one rank")
        return _restore(path, to, backend, progress)
    found, place = recognize(path)
    if to.takes_all and rank is None and not isinstance(place, Path):
        shard = found.open_unparsed(place)
        if shard is not None:
            with closing(shard.source):
                if arena is not None or (storages == "shared" and is_worth_it(shard)):
                    return _restore_ahead(shard, to, backend, progress)
                return _restore(shard.parse(), to, backend, progress)
    with open_one(found, place, rank) as snapshot:
        return _restore(snapshot, to, backend, progress)


def _restore_ahead(
    shard: UnparsedShard, to: Destination, backend: str | Backend, progress: Progress | None
) -> Restored:
    began = time.perf_counter()
    # Before any memory is taken.
    mover = select_backend(backend, "read", to.where, shard.source.path, (shard.source,))
    plan = plan_ahead(shard, to.where) if to.arena is None else plan_payload(shard, to.arena)
    return _since(began, Prepared.of(plan, mover).restore(progress))


def _since(began: float, restored: Restored) -> Restored:
    report = replace(restored.report, elapsed_s=time.perf_counter() - began)
    return Restored(restored.tensors, report)


def _restore(
    snapshot: Snapshot, to: Destination, backend: str | Backend, progress: Progress | None
) -> Restored:
    began = time.perf_counter()
    if to.into is None:
        prepared = Prepared.of(*_plan_new(snapshot, to, backend))
    else:
        prepared = prepare(snapshot, to.into, backend, names=to.names, strict=to.strict)
    return _since(began, prepared.restore(progress))


def _plan_new(
    snapshot: Snapshot, to: Destination, backend: str | Backend
) -> tuple[RestorePlan, Backend]:
    # Before any memory is taken.
    mover = select_backend(backend, "read", to.where, snapshot.path, snapshot.sources)
    if to.arena is not None:
        if not isinstance(snapshot, ShardFile):
            raise TypeError(f"a snapshot of format {snapshot.format!r} has no payload for arena=")
        return plan_payload(snapshot, to.arena), mover
    with collector_paused():
        plan = plan_arena if to.storages == "shared" else plan_own
        return plan(snapshot, select_names(snapshot.tensors, to.names), to.where), mover


def prepare(
    snapshot: Snapshot,
    into: nn.Module | Mapping[str, torch.Tensor],
    backend: str | Backend,
    *,
    names: str | Sequence[str] | None = None,
    strict: bool = True,
) -> Prepared:
    """Check that a snapshot fits tensors that are there, and plan to fill them. None is touched.

    Raises:
        MismatchError, BackendError: as of `restore`.
    """
    with collector_paused():
        census = take_census(into)
        fit = with_new_memory(snapshot, match(snapshot, census, names, strict=strict), census)
        plan = plan_into(snapshot, fit.targets)
    prepared = Prepared.of(plan, backend, fit.kept)
    _check_twins(snapshot, plan, fit.targets, backend)
    unfilled = [name for name in fit.kept if name in census.optional]
    warn_of_unfilled(snapshot.path, census.tensors, unfilled, _TO_THE_CALLER)
    return replace(prepared, target=into, fit=fit)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A restore of which everything is decided, and nothing has moved.

    Attributes:
        movers: the backend for each device of the plan.
        kept: names of the target that nothing fills.
        target: the module or mapping that is filled.
        fit: its tensors that are filled, and state that it has to be given.
    """

    plan: RestorePlan
    movers: Mapping[torch.device, Backend]
    kept: tuple[str, ...]
    target: nn.Module | Mapping[str, torch.Tensor] | None = None
    fit: Match = field(default_factory=Match)

    @classmethod
    def of(cls, plan: RestorePlan, backend: str | Backend, kept: tuple[str, ...] = ()) -> Self:
        """Choose the backends of a plan."""
        movers = {
            device: select_backend(backend, "read", device, plan.path, plan.sources)
            for device in dict.fromkeys(device for _, device, _ in plan.reads)
        }
        return cls(plan, movers, kept)

    def restore(self, progress: Progress | None = None) -> Restored:
        """Move the bytes.

        Raises:
            FormatError, BackendError: as of `restore`; contents of the target are undefined then.
            MismatchError: the module does not take what only its own methods can set; likewise.
        """
        began = time.perf_counter()
        with ThreadPoolExecutor(1, "thaw-views") as pool:
            making = pool.submit(self.plan.make)
            transfers = self._move(making, progress)
        made = making.result()
        for copy in self.plan.copies:
            copy_exactly(copy)
        # What torch computed of these, and keeps for gradients, is of other values.
        increment_version(list(self.fit.targets.values()))
        if isinstance(self.target, nn.Module):
            settle(self.target, self.fit.given())
        report = RestoreReport(
            path=made.snapshot.path,
            nbytes=made.nbytes,
            elapsed_s=time.perf_counter() - began,
            tensors=len(made.tensors),
            backend=_joined(mover.name for mover in self.movers.values()) or "none",
            route=_joined(transfer.route for transfer in transfers) or "none",
            chunks_checked=sum(transfer.chunks_checked for transfer in transfers),
            staged=len(self.plan.copies),
            kept=self.kept,
        )
        return Restored(made.tensors, report)

    def _move(self, making: Future[Made], progress: Progress | None) -> list[Transfer]:
        transfers: list[Transfer] = []
        for device, mover in self.movers.items():
            reads = [
                (self.plan.sources[source], read)
                for source, where, read in self.plan.reads
                if where == device
            ]
            try:
                transfers += mover.read_all(reads, progress=progress)
            except ThawError as error:
                # What the manifest breaks, if it is parsed only now, comes first.
                snapshot = making.result().snapshot
                if isinstance(error, ChecksumError):
                    raise named(snapshot, error) from None
                raise
        return transfers


def _joined(words: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(words))


def _check_twins(
    snapshot: Snapshot,
    plan: RestorePlan,
    targets: Mapping[str, torch.Tensor],
    backend: str | Backend,
) -> None:
    """Check, in memory apart, that tensors which are tied in the target are stored alike.

    Raises:
        MismatchError: they are not.
    """
    for name, other in plan.twins:
        names, device = [literal(name), literal(other)], targets[name].device
        read = restore(snapshot, names=names, device=device, backend=backend)
        if not torch.equal(as_integers(read[name]), as_integers(read[other])):
            raise MismatchError(
                f"{name!r} is tied to {other!r} in the target, but the snapshot has other bytes "
                "for it"
            )
