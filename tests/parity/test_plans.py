"""Random and extreme plans: each backend moves the same bytes, with the same digests.

What is expected is computed here, from the plan alone. The reference backend is among those that
are tested, so that every other one is held to it, bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from parity_plans import Case, Mover, Shape, noise, shapes

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


def write_and_read(mover: Mover, readers: list[Mover], folder: Path, shape: Shape) -> None:
    case, path = Case(shape, mover.device), folder / "written.bin"
    case.write(mover, path)
    for reader in readers:
        Case(shape, reader.device).read(reader, path, bytes(case.payload()))


@examples(50)
@given(shape=shapes())
def test_reads_any_plan(mover: Mover, folder: Path, shape: Shape) -> None:
    read(mover, folder, shape)


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
