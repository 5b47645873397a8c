"""What a process of the benchmark measures: a backend that is wrong does not pass."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from thaw_format import ChecksumError, Source, Target

import thaw
from thaw.bench.child import samples
from thaw.bench.identity import identical, scramble
from thaw.bench.task import AGAIN, FIRST, FREEZE, INTO, PIN, PINNED, Sample, Task
from thaw.plugins.reference import ReferenceBackend
from thaw.seam.backend import Backend, Progress, Transfer
from thaw.seam.plan import Extents, ReadPlan, WritePlan


class Zeroing(ReferenceBackend):
    """Says that it has read, and gives zeros."""

    name = "zeroing"

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        for extent in plan.extents:
            extent.memory.zero_()
        return Transfer("host", chunks_checked=1)


class IdleAfterTheFirst(ReferenceBackend):
    """Reads once, and then relies on what is in memory."""

    name = "idle-after-the-first"

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        self.reads += 1
        if self.reads > 1:
            return Transfer("host", chunks_checked=1)
        return super().read(source, plan, progress=progress)


class Flipping(ReferenceBackend):
    """Changes one bit of a NaN's payload, which comparing numbers does not show."""

    name = "flipping"

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        done = super().read(source, plan, progress=progress)
        for extent in plan.extents:
            nans = (extent.memory[:-1] == 0xC1) & (extent.memory[1:] == 0x7F)
            if nans.any():
                extent.memory[int(nans.nonzero()[0])] ^= 1
        return done


class WritingOtherBytes(ReferenceBackend):
    """Writes a bit that was not there, with the digest that belongs to it."""

    name = "writing-other-bytes"

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        changed = Extents.of(replace(each, memory=each.memory.clone()) for each in plan.extents)
        changed[0].memory[0] ^= 1
        return super().write(target, replace(plan, extents=changed), progress=progress)


class Failing(ReferenceBackend):
    """Cannot restore into tensors that are there."""

    name = "failing"

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        if len(plan.extents) > 1:
            raise thaw.TransferError("the bus\nis on fire", offset=0, nbytes=1)
        return super().read(source, plan, progress=progress)


def run(model: Path, backend: Backend, device: str = "cpu", **rest: object) -> list[Sample]:
    operations = (AGAIN, INTO, FREEZE)
    folder = str(model.parent)
    task = replace(Task(str(model), backend.name, device, folder, 2, None, operations), **rest)  # type: ignore[arg-type]
    return [each for each in samples(task, backend) if not each.began]


def verdicts(found: list[Sample]) -> dict[str, set[bool | None]]:
    return {
        each.operation: {s.identical for s in found if s.operation == each.operation}
        for each in found
    }


def test_the_reference_is_identical_to_itself(model: Path) -> None:
    found = run(model, ReferenceBackend())
    assert Counter(each.operation for each in found) == {FIRST: 1, AGAIN: 2, INTO: 2, FREEZE: 2}
    assert all(each.identical and each.error is None for each in found)
    assert all(each.elapsed_s > 0 and each.nbytes > 0 and each.route == "host" for each in found)
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize(
    ("backend", "wrong"),
    [
        (Zeroing(), {FIRST, AGAIN, INTO}),
        (IdleAfterTheFirst(), {AGAIN, INTO}),
        (Flipping(), {FIRST, AGAIN, INTO}),
        (WritingOtherBytes(), {FREEZE}),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_other_bytes_are_reported(model: Path, backend: Backend, wrong: set[str]) -> None:
    for operation, said in verdicts(run(model, backend)).items():
        assert said == {operation not in wrong}, operation


def test_an_error_ends_only_its_operation(model: Path) -> None:
    found = run(model, Failing())
    errors = {each.operation: each.error for each in found if each.error}
    assert list(errors) == [INTO]
    assert "the bus is on fire" in str(errors[INTO])
    assert {each.operation for each in found} == {FIRST, AGAIN, INTO, FREEZE}


def test_damage_is_found_by_every_restore(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[4096 + 100] ^= 1
    model.write_bytes(data)
    found = run(model, ReferenceBackend())
    assert {each.operation for each in found if each.error} == {FIRST, AGAIN, INTO, FREEZE}
    with pytest.raises(ChecksumError):
        thaw.restore(model)


def test_what_is_scrambled_is_no_longer_identical(model: Path) -> None:
    one, other = thaw.restore(model), thaw.restore(model)
    assert identical(one, other)
    assert not identical(dict(one), {**other, "a": other["a"].double()})
    assert not identical(dict(one), {name: other[name] for name in list(other)[1:]})
    scramble(one.values())
    assert not any(identical({name: one[name]}, {name: other[name]}) for name in ("a", "t", "nans"))


def test_a_task_survives_the_command_line(model: Path) -> None:
    task = Task(str(model), "reference", "cpu", "/tmp", 2, 1, (AGAIN, FREEZE))
    assert Task.from_json(task.to_json()) == task


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(model: Path) -> None:
    found = run(model, ReferenceBackend(), "cuda", operations=(AGAIN, INTO, PINNED, FREEZE))
    assert [each.error for each in found if each.error] == []
    assert verdicts(found) == {
        FIRST: {True},
        AGAIN: {True},
        INTO: {True},
        PIN: {None},
        PINNED: {True},
        FREEZE: {True},
    }
    assert False in verdicts(run(model, Zeroing(), "cuda"))[FIRST]
    assert torch.cuda.is_initialized()
