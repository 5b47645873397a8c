"""Reads and writes: batches of moves by several threads, digests on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from thaw import (
    ChunkDigests,
    Digests,
    Progress,
    ReadPlan,
    WritePlan,
    check_chunk,
    cut_read,
    cut_write,
    runs_to_read,
)

from .devices import CudaDevice, Pending
from .files import KvikFile
from .moves import Batch, Run, batches, plan_moves, runs_of

_BATCH_NBYTES = 512 << 20
_STAGING_NBYTES = 32 << 20
_WRITE_STAGING_NBYTES = 64 << 20
_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is moved at once.

    Attributes:
        threads: how many moves are under way at a time.
        piece_nbytes: the most bytes of one move; a multiple of 4096, at most 32 MiB.
    """

    threads: int
    piece_nbytes: int

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if self.piece_nbytes % 4096 or not 0 < self.piece_nbytes <= _STAGING_NBYTES:
            raise ValueError(
                f"piece_nbytes must be a multiple of 4096 up to {_STAGING_NBYTES}, "
                f"not {self.piece_nbytes}"
            )


@dataclass(slots=True)
class Flight:
    """A batch that is being moved."""

    batch: Batch
    staging: torch.Tensor
    futures: list[Future[None]]
    runs: list[Run]
    pending: Pending | None = None


class _Direction(Protocol):
    """What is done with a batch before its bytes move, how each moves, and what is done after."""

    def prepare(self, flight: Flight) -> None: ...

    def move(self, address: int, nbytes: int, offset: int) -> None: ...

    def finish(self, flight: Flight) -> None: ...


class Reading:
    """From a file to extents."""

    def __init__(self, device: CudaDevice, file: KvikFile, digests: Digests | None, path: Path):
        self._device, self._digests, self._path = device, digests, path
        self._chunks = ChunkDigests(digests.chunks) if digests else None
        self.move = file.read
        self.chunks_checked = 0

    def prepare(self, flight: Flight) -> None:
        if self._digests:
            base = flight.staging.data_ptr()
            flight.runs = runs_of(flight.batch, base, self._digests.chunks)

    def finish(self, flight: Flight) -> None:
        self._device.copy(list(flight.batch.copies(flight.staging.data_ptr())))
        if self._digests and self._chunks:
            values = self._device.digest(flight.runs).values()
            for index, crc in self._chunks.add(_named(flight.runs, values)):
                check_chunk(index, crc, self._digests, self._path)
                self.chunks_checked += 1
        self._device.synchronize()


class Writing:
    """From extents to a file, by way of staging.

    The program may change its memory meanwhile, and digests and file have to be of one copy.
    """

    def __init__(self, device: CudaDevice, file: KvikFile, plan: WritePlan):
        self._device, self._layout = device, plan.chunks
        self._chunks = ChunkDigests(plan.chunks)
        self.move = file.write
        self.digests: list[int] = []

    def prepare(self, flight: Flight) -> None:
        batch, staging = flight.batch, flight.staging
        if batch.has_gaps():
            self._device.clear(staging[: batch.staged_nbytes])
        there = batch.copies(staging.data_ptr())
        self._device.copy([(origin, to, nbytes) for to, origin, nbytes in there])
        self._device.synchronize()
        flight.runs = runs_of(batch, staging.data_ptr(), self._layout)
        flight.pending = self._device.digest(flight.runs)

    def finish(self, flight: Flight) -> None:
        assert flight.pending
        found = self._chunks.add(_named(flight.runs, flight.pending.values()))
        self.digests += [crc for _, crc in found]


def read(
    device: CudaDevice,
    file: KvikFile,
    plan: ReadPlan,
    path: Path,
    settings: Settings,
    progress: Progress | None,
) -> int:
    """Fill the extents of a plan; return how many chunks were checked."""
    last = replace(plan, extents=plan.extents[-1:])
    file.require(runs_to_read(last)[-1][1])
    reading = Reading(device, file, plan.digests, path)
    moves = plan_moves(cut_read(plan, settings.piece_nbytes))
    planned = batches(moves, _BATCH_NBYTES, _STAGING_NBYTES)
    _run(device, reading, planned, _STAGING_NBYTES, settings, progress)
    return reading.chunks_checked


def write(
    device: CudaDevice,
    file: KvikFile,
    plan: WritePlan,
    settings: Settings,
    progress: Progress | None,
) -> tuple[int, ...]:
    """Write the extents of a plan and zeros between; return the digest of every chunk."""
    writing = Writing(device, file, plan)
    moves = plan_moves(cut_write(plan, settings.piece_nbytes), staged_only=True)
    planned = batches(moves, _BATCH_NBYTES, _WRITE_STAGING_NBYTES)
    _run(device, writing, planned, _WRITE_STAGING_NBYTES, settings, progress)
    return tuple(writing.digests)


def _run(
    device: CudaDevice,
    direction: _Direction,
    planned: Iterable[Batch],
    staging_nbytes: int,
    settings: Settings,
    progress: Progress | None,
) -> None:
    """Move batch after batch, the next already under way while one is finished."""
    staging = [device.allocate(staging_nbytes) for _ in range(_IN_FLIGHT)]
    pool = ThreadPoolExecutor(settings.threads, "thaw-gds", initializer=device.bind)
    flying: deque[Flight] = deque()
    try:
        for number, batch in enumerate(planned):
            if len(flying) == _IN_FLIGHT:
                _land(flying.popleft(), direction, progress)
            flight = Flight(batch, staging[number % _IN_FLIGHT], [], [])
            direction.prepare(flight)
            _launch(flight, pool, direction.move)
            flying.append(flight)
        while flying:
            _land(flying.popleft(), direction, progress)
    finally:
        # Whatever happened: nothing may still write to memory that is about to be freed.
        pool.shutdown(wait=True, cancel_futures=True)
        device.synchronize()


def _launch(
    flight: Flight, pool: ThreadPoolExecutor, move: Callable[[int, int, int], None]
) -> None:
    addresses = flight.batch.addresses(flight.staging.data_ptr())
    for each, address in zip(flight.batch.moves, addresses, strict=True):
        flight.futures.append(pool.submit(move, address, each.nbytes, each.offset))


def _land(flight: Flight, direction: _Direction, progress: Progress | None) -> None:
    for move, future in zip(flight.batch.moves, flight.futures, strict=True):
        future.result()
        if progress and (nbytes := move.wanted_nbytes):
            progress(nbytes)
    direction.finish(flight)


def _named(runs: list[Run], values: list[int]) -> list[tuple[int, int, int]]:
    return [(run.chunk, run.nbytes, crc) for run, crc in zip(runs, values, strict=True)]
