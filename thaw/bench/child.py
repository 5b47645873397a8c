"""A process of its own that measures one backend: `python -m thaw.bench.child TASK`.

A line of JSON on standard output is a `Sample`. What the clock sees begins after the imports, the
start of CUDA and the backend's own imports.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

import thaw
from thaw.plugins.host import registry
from thaw.seam.backend import Backend

from .identity import identical, scramble
from .memory import drop
from .task import AGAIN, COLD, FIRST, FREEZE, INTO, PIN, PINNED, Sample, Task

_T = TypeVar("_T")
_FAILURES = (thaw.ThawError, OSError, RuntimeError, MemoryError)


def samples(task: Task, backend: str | Backend) -> Iterator[Sample]:
    """Run the first restore and then the operations of a task; an error ends only its operation."""
    bench = _Bench(task, backend)
    for operation in (FIRST, *task.operations):
        yield Sample(operation, began=True)
        try:
            yield from bench.run(operation)
        except _FAILURES as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Sample(operation, error=reason)


class _Bench:
    def __init__(self, task: Task, backend: str | Backend) -> None:
        self._task, self._backend = task, backend
        self._device = torch.device(task.device)
        self._expected: thaw.Restored | None = None
        self._tensors: Mapping[str, torch.Tensor] = {}
        self._run: dict[str, Callable[[], Iterator[Sample]]] = {
            FIRST: self._first,
            AGAIN: self._again,
            INTO: self._into,
            PINNED: self._pinned,
            FREEZE: self._freeze,
            COLD: self._cold,
        }
        torch.empty(1, device=self._device)
        self._synchronize()

    def run(self, operation: str) -> Iterator[Sample]:
        return self._run[operation]()

    def _first(self) -> Iterator[Sample]:
        yield self._restored(FIRST, self._restore)
        self._discard()

    def _again(self) -> Iterator[Sample]:
        for _ in range(self._task.repeat):
            self._discard()
            yield self._restored(AGAIN, self._restore)

    def _into(self) -> Iterator[Sample]:
        if not self._tensors:
            self._tensors = self._restore("reference")
        into = self._tensors
        for _ in range(self._task.repeat):
            scramble(into.values())
            yield self._restored(
                INTO,
                lambda: thaw.restore(
                    self._task.path, into=into, backend=self._backend, rank=self._task.rank
                ),
            )

    def _pinned(self) -> Iterator[Sample]:
        self._discard()
        path, rank = self._task.path, self._task.rank
        elapsed_s, pinned = self._time(lambda: thaw.pin(path, device=self._device, rank=rank))
        with pinned:
            nbytes = sum(file.stat().st_size for file in self._files())
            yield Sample(PIN, elapsed_s, nbytes)
            for _ in range(self._task.repeat):
                yield self._restored(
                    PINNED, lambda: pinned.restore(device=self._device, backend=self._backend)
                )
                self._discard()

    def _freeze(self) -> Iterator[Sample]:
        self._discard()
        expected = self._reference()
        tensors = expected
        if any(each.device.type != self._device.type for each in expected.values()):
            tensors = self._restore("reference")
        for number in range(self._task.repeat):
            path = Path(self._task.folder, f"{number}.thaw")
            try:
                elapsed_s, report = self._time(
                    partial(thaw.freeze, tensors, path, backend=self._backend)
                )
                where = self._roomy_device(report.nbytes)
                frozen = thaw.restore(path, device=where, backend="reference")
                same = identical(frozen, expected)
                scramble(frozen.values())
                yield Sample(FREEZE, elapsed_s, report.nbytes, report.route, same)
            finally:
                path.unlink(missing_ok=True)

    def _cold(self) -> Iterator[Sample]:
        files = self._files()
        for _ in range(self._task.repeat):
            self._discard()
            for file in files:
                drop(file)
            yield self._restored(COLD, self._restore)

    def _restore(self, backend: str | Backend | None = None) -> thaw.Restored:
        return thaw.restore(
            self._task.path,
            device=self._device,
            backend=backend or self._backend,
            rank=self._task.rank,
        )

    def _restored(self, operation: str, action: Callable[[], thaw.Restored]) -> Sample:
        elapsed_s, restored = self._time(action)
        self._tensors = restored
        same = identical(restored, self._reference())
        report = restored.report
        return Sample(operation, elapsed_s, report.nbytes, report.route, same)

    def _reference(self) -> thaw.Restored:
        """Restore what is right: once, after the first restore has been timed."""
        if self._expected is None:
            task = self._task
            where = self._roomy_device(sum(file.stat().st_size for file in self._files()))
            self._expected = thaw.restore(
                task.path, device=where, backend="reference", rank=task.rank
            )
        return self._expected

    def _roomy_device(self, nbytes: int) -> torch.device:
        """Choose the device under test if one more copy and the next one measured fit there."""
        if self._device.type != "cuda":
            return self._device
        free = torch.cuda.mem_get_info(self._device)[0]
        return self._device if free > 2.2 * nbytes else torch.device("cpu")

    def _discard(self) -> None:
        """Give memory back, so that the next destination is allocated anew."""
        scramble(self._tensors.values())
        self._tensors = {}
        if self._device.type == "cuda":
            self._synchronize()
            torch.cuda.empty_cache()

    def _files(self) -> list[Path]:
        with thaw.open(self._task.path, rank=self._task.rank) as snapshot:
            return [source.path for source in snapshot.sources]

    def _time(self, action: Callable[[], _T]) -> tuple[float, _T]:
        self._synchronize()
        began = time.perf_counter()
        result = action()
        self._synchronize()
        return time.perf_counter() - began, result

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def main() -> None:
    """Measure what the argument asks for."""
    task = Task.from_json(sys.argv[1])
    with os.fdopen(os.dup(1), "w") as output:
        # What a library prints must not mix with the samples.
        os.dup2(2, 1)
        # What thaw imports when a name is first used is no part of a first restore.
        for name in thaw.__all__:
            getattr(thaw, name)
        registry().backends[task.backend].probe(torch.device(task.device))
        for sample in samples(task, task.backend):
            print(json.dumps(asdict(sample)), file=output, flush=True)


if __name__ == "__main__":
    main()
