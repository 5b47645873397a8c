"""Random and extreme plans: each backend moves the same bytes, with the same digests.

What is expected is computed here, from the plan alone. The reference backend is among those that
are tested, so that every other one is held to it, bit by bit.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity_plans import Case, Mover, Shape, noise, shapes
from thaw_format import FileSource

from thaw import Extent

MIB = 1 << 20
CHUNK_NBYTES = 4 * MIB


def many(count: int, step: int, *, scatter: int | None) -> Shape:
    """Make many extents of 1 to 97 bytes."""
    extents = tuple((i * step, 1 + i % 97) for i in range(count))
    return Shape(4096, count * step, MIB, extents, scatter=scatter)


EXTREMES = {
    "nothing": Shape(4096, 0, CHUNK_NBYTES, ()),
    "padding-alone": Shape(4096, 2 * MIB + 5, MIB, ()),
    "5000-tiny": many(5000, 512, scatter=None),
    "5000-tiny-scattered": many(5000, 97, scatter=5),
    "20000-tiny": many(20_000, 512, scatter=None),
    "20000-tiny-scattered": many(20_000, 101, scatter=3),
    "large-chunks": Shape(8192, 3 * CHUNK_NBYTES - 7, CHUNK_NBYTES, ((0, 3 * CHUNK_NBYTES - 7),)),
    "large-chunks-at-odd-places": Shape(
        4096, 3 * CHUNK_NBYTES, CHUNK_NBYTES, ((1, CHUNK_NBYTES), (9_000_001, 3_000_000)), scatter=1
    ),
    "no-digests-at-an-odd-place": Shape(
        1237, 5 * MIB + 3, MIB, ((0, 5 * MIB + 3),), has_digests=False, scatter=2
    ),
}


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def read(mover: Mover, folder: Path, shape: Shape) -> None:
    case, path, payload = Case(shape, mover.device), folder / "read.bin", noise(shape.nbytes, 2)
    path.write_bytes(case.file_bytes(payload))
    case.read(mover, path, payload)


def read_all(mover: Mover, folder: Path, several: list[Shape]) -> None:
    cases = [Case(shape, mover.device) for shape in several]
    payloads = [noise(shape.nbytes, 10 + index) for index, shape in enumerate(several)]
    moved = list[int]()
    with ExitStack() as stack:
        reads = []
        for index, (case, payload) in enumerate(zip(cases, payloads, strict=True)):
            path = folder / f"read-{index}.bin"
            path.write_bytes(case.file_bytes(payload))
            source = stack.enter_context(closing(FileSource(path)))
            reads.append((source, case.plan(payload)))
        done = mover.backend.read_all(reads, progress=moved.append)
    for case, transfer, payload in zip(cases, done, payloads, strict=True):
        case.check(mover, transfer, payload)
    assert sum(moved) == sum(plan.nbytes for _, plan in reads)


def write_and_read(mover: Mover, readers: list[Mover], folder: Path, shape: Shape) -> None:
    case, path = Case(shape, mover.device), folder / "written.bin"
    case.write(mover, path)
    for reader in readers:
        Case(shape, reader.device).read(reader, path, bytes(case.payload()))


@examples(50)
@given(shape=shapes())
def test_reads_any_plan(mover: Mover, folder: Path, shape: Shape) -> None:
    read(mover, folder, shape)


@examples(25)
@given(several=st.lists(shapes(), max_size=4), has_digests=st.sampled_from([False, False, None]))
def test_reads_any_plans_together(
    mover: Mover, folder: Path, several: list[Shape], has_digests: bool | None
) -> None:
    if has_digests is not None:
        several = [replace(shape, has_digests=has_digests) for shape in several]
    read_all(mover, folder, several)


@examples(30)
@given(shape=shapes(to_write=True))
def test_every_backend_reads_what_it_wrote(
    mover: Mover, everyone: list[Mover], folder: Path, shape: Shape
) -> None:
    write_and_read(mover, everyone, folder, shape)


@pytest.mark.parametrize("name", EXTREMES)
def test_reads_extreme_plans(mover: Mover, folder: Path, name: str) -> None:
    read(mover, folder, EXTREMES[name])


@pytest.mark.parametrize("name", [name for name in EXTREMES if EXTREMES[name].has_digests])
def test_every_backend_reads_the_extremes_it_wrote(
    mover: Mover, everyone: list[Mover], folder: Path, name: str
) -> None:
    write_and_read(mover, everyone, folder, EXTREMES[name])


@examples(15)
@given(shape=shapes(to_write=True))
def test_writes_what_lies_on_the_device_and_on_the_host(
    mover: Mover, folder: Path, shape: Shape
) -> None:
    case = Case(shape, mover.device)
    mixed = [
        Extent(each.offset, each.memory.cpu()) if index % 3 == 1 else each
        for index, each in enumerate(case.extents)
    ]
    case.write(mover, folder / "mixed.bin", mixed)
