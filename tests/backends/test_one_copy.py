"""What a write puts into a file and what it digests are one copy, on devices that are made up.

They are as late as a device may be: digests are computed when they are asked for, and the program
changes its memory whenever a copy of it has been made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import thaw_cupy.lanes
import thaw_cupy.steps
import thaw_gds.transfer
import torch
from thaw_format import ChecksumError, Chunks
from thaw_format.checksum import crc32c

from thaw import Extent, Extents, ReadPlan, WritePlan, cut_read, cut_write
from thaw.testing import SHAPES, Sample

PIECE_NBYTES = 1 << 20
SPANS = [(0, 3_000_000), (3_000_512, 700), (3_100_000, 77), (5_000_000, 2_500_001)]
CHUNKS = Chunks(4096, 8_000_000, 1 << 19)


class Program:
    """Memory that changes."""

    def __init__(self) -> None:
        self.extents = Extents.of(
            Extent(CHUNKS.offset + start, torch.full((nbytes,), 7, dtype=torch.uint8))
            for start, nbytes in SPANS
        )

    def change(self) -> None:
        for extent in self.extents:
            extent.memory.add_(1)


@dataclass
class Late:
    """Digests that are computed when they are asked for."""

    runs: Sequence[Sequence[tuple[int, int]]]

    def values(self) -> list[int]:
        return [crc32c(b"".join(ctypes.string_at(*part) for part in run)) for run in self.runs]


@dataclass
class File:
    path: Path = Path("made-up")
    data: bytearray = field(default_factory=lambda: bytearray(CHUNKS.offset + CHUNKS.nbytes))

    def put(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def digests(self) -> list[int]:
        spans = [CHUNKS.span(index) for index in range(len(CHUNKS))]
        return [crc32c(bytes(self.data[start:end])) for start, end in spans]


def gds(program: Program, file: File) -> Sequence[int]:
    class Device:
        bind = synchronize = staticmethod(lambda: None)
        current = staticmethod(nullcontext)

        def allocate(self, nbytes: int) -> torch.Tensor:
            return torch.full((nbytes,), 9, dtype=torch.uint8)

        def clear(self, memory: torch.Tensor) -> None:
            memory.zero_()

        def copy(self, copies: Any) -> None:
            for origin, to, nbytes in copies:
                ctypes.memmove(to, origin, nbytes)

        def digest(self, runs: Any) -> Late:
            program.change()
            return Late([run.parts for run in runs])

    class Kvik:
        def write(self, address: int, nbytes: int, offset: int) -> None:
            file.put(offset, ctypes.string_at(address, nbytes))
            program.change()

    settings = thaw_gds.transfer.Settings(1, PIECE_NBYTES)
    plan = WritePlan(program.extents, CHUNKS)
    device: Any = Device()
    kvik: Any = Kvik()
    return thaw_gds.transfer.write(device, kvik, plan, settings, None)


class Lane:
    """A lane of CuPy's backend whose device is the host."""

    def __init__(self, copied: Callable[[], None]) -> None:
        self._copied = copied
        self.staging = torch.full((PIECE_NBYTES,), 9, dtype=torch.uint8)
        self.bounce = torch.full((PIECE_NBYTES,), 9, dtype=torch.uint8)
        self.staging_address = self.staging.data_ptr()
        self.buffer_address = self.bounce.data_ptr()
        self.stream = type("Stream", (), {"ptr": 0, "synchronize": lambda self: None})()

    def copy(self, to: int, origin: int, nbytes: int) -> None:
        ctypes.memmove(to, origin, nbytes)
        self._copied()

    def clear(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, 0, nbytes)

    def buffer(self, nbytes: int, *, start: int = 0) -> Any:
        return (ctypes.c_ubyte * nbytes).from_address(self.buffer_address + start)


class Digests:
    """Computes on the host, when it is asked."""

    def __init__(self, device: Any) -> None: ...

    def start(self, runs: Any, stream: int) -> Late:
        return Late(runs)


class Copies:
    """Copies at once."""

    def __init__(self, device: Any) -> None: ...

    def start(self, copies: Sequence[tuple[int, int, int]], stream: int) -> None:
        for origin, to, nbytes in copies:
            ctypes.memmove(to, origin, nbytes)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have CuPy's backend compute and copy on the host."""
    monkeypatch.setattr(thaw_cupy.steps, "DeviceDigests", Digests)
    monkeypatch.setattr(thaw_cupy.steps, "DeviceCopies", Copies)
    monkeypatch.setattr(thaw_cupy.steps, "device_of", lambda extents: None)


def cupy(program: Program, file: File) -> Sequence[int]:
    target: Any = type(
        "Target", (), {"write_from": lambda _, at, buffers: file.put(at, bytes(buffers[0]))}
    )()
    lanes: Any = [Lane(program.change), Lane(program.change)]
    plan = WritePlan(program.extents, CHUNKS)
    # All memory is the device's.
    plan.extents.device = torch.device("cuda")
    writing = thaw_cupy.steps.Writing(target, plan)
    thaw_cupy.lanes.pump(lanes, cut_write(plan, PIECE_NBYTES), writing, None)
    return writing.digests


@pytest.mark.parametrize("write", [gds, cupy])
def test_digests_are_those_of_the_file(write: Callable[[Program, File], Sequence[int]]) -> None:
    program, file = Program(), File()
    digests = write(program, file)
    assert list(digests) == file.digests()
    # What no extent has is zero still.
    assert not any(file.data[CHUNKS.offset + 7_500_001 :])
    assert file.data[CHUNKS.offset] != 9


@pytest.mark.parametrize("damaged", [False, True])
def test_cupy_reads_to_one_place_and_to_many(tmp_path: Path, damaged: bool) -> None:
    sample = Sample(tmp_path, SHAPES["thousands-of-tiny"], torch.device("cpu"))
    long = Sample(tmp_path, SHAPES["several-megabytes"], torch.device("cpu"))
    for each in (sample, long):
        extents = each.empty_extents()
        extents.device = torch.device("cuda")
        each.payload[len(each.payload) // 2] ^= damaged
        plan, moved = ReadPlan(extents, each.digests), list[int]()
        lanes: Any = [Lane(lambda: None), Lane(lambda: None)]
        with ThreadPoolExecutor(3) as pool:
            reading = thaw_cupy.steps.Reading(each.write_file(), plan, pool, 3)
            pieces = cut_read(plan, PIECE_NBYTES)
            if damaged:
                with pytest.raises(ChecksumError):
                    thaw_cupy.lanes.pump(lanes, pieces, reading, None)
                continue
            thaw_cupy.lanes.pump(lanes, pieces, reading, moved.append)
        each.assert_read(extents)
        assert (reading.chunks_checked, sum(moved)) == (len(each.chunks), extents.nbytes)
