"""A conformance kit for backends: subclass `BackendTests` in your own repository.

    from thaw.testing import BackendTests

    class TestMine(BackendTests):
        device = "cuda"

        def make_backend(self):
            return MyBackend()

pytest collects it like any other test class. What it asks is what `thaw.Backend` promises; right
is what the reference backend does.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from thaw_format import ChecksumError, Chunks, Digests, FileSource, FileTarget, TruncatedError
from thaw_format.checksum import HostBuffer, crc32c, host_buffer

from .errors import BackendError
from .plugins.reference import ReferenceBackend
from .seam.backend import Backend, Support, Transfer
from .seam.plan import Extent, Extents, ReadPlan, WritePlan

CHUNK_NBYTES = 1 << 16


class Shape(NamedTuple):
    """Where extents lie in a payload: pairs of an offset and a size, and the payload's size."""

    extents: Sequence[tuple[int, int]]
    payload_nbytes: int


def _tiny(count: int) -> Shape:
    return Shape([(i * 512, 1 + i % 97) for i in range(count)], count * 512)


def _scattered(seed: int) -> Shape:
    choose = random.Random(seed)
    extents, at = [], 0
    for _ in range(choose.randrange(1, 40)):
        at += choose.randrange(0, 3000)
        nbytes = choose.choice([1, 7, 511, 4096, CHUNK_NBYTES, choose.randrange(1, 300_000)])
        extents.append((at, nbytes))
        at += nbytes
    return Shape(extents, at + choose.randrange(0, 5000))


SHAPES: dict[str, Shape] = {
    "nothing": Shape([], 0),
    "padding-alone": Shape([], 3 * CHUNK_NBYTES + 5),
    "one-byte": Shape([(0, 1)], 1),
    "one-chunk": Shape([(0, CHUNK_NBYTES)], CHUNK_NBYTES),
    "chunk-and-a-byte": Shape([(0, CHUNK_NBYTES + 1)], CHUNK_NBYTES + 1),
    "inside-a-chunk": Shape([(CHUNK_NBYTES + 13, 99)], 3 * CHUNK_NBYTES),
    "across-chunks": Shape([(CHUNK_NBYTES - 3, 7)], 2 * CHUNK_NBYTES),
    "skips-chunks": Shape([(5, 10), (8 * CHUNK_NBYTES + 1, 10)], 9 * CHUNK_NBYTES),
    "adjacent": Shape([(0, 1000), (1000, 3), (1003, CHUNK_NBYTES)], CHUNK_NBYTES + 1003),
    "several-megabytes": Shape([(0, 9_000_001)], 9_000_448),
    "thousands-of-tiny": _tiny(5000),
    **{f"scattered-{seed}": _scattered(seed) for seed in range(8)},
}


class Sample:
    """A file with a payload of known bytes, and memory for its extents."""

    def __init__(self, folder: Path, shape: Shape, device: torch.device, base: int = 4096) -> None:
        self.path, self.shape, self.device = folder / "payload.bin", shape, device
        self.chunks = Chunks(base, shape.payload_nbytes, CHUNK_NBYTES)
        choose = random.Random(shape.payload_nbytes)
        self.payload = bytearray(shape.payload_nbytes)
        for start, nbytes in shape.extents:
            self.payload[start : start + nbytes] = choose.randbytes(nbytes)
        self.digests = Digests(self.chunks, self.found_digests())

    def found_digests(self) -> list[int]:
        """Compute the digests of the payload as it is."""
        return [crc32c(bytes(chunk)) for chunk in self._cut()]

    def _cut(self) -> list[bytearray]:
        step = CHUNK_NBYTES
        return [self.payload[i : i + step] for i in range(0, len(self.payload), step)]

    def write_file(self) -> FileSource:
        self.path.write_bytes(b"\xaa" * self.chunks.offset + self.payload)
        return FileSource(self.path)

    def empty_extents(self) -> Extents:
        """Give every extent memory of its own that holds other bytes than the file."""
        return Extents.of(
            Extent(
                self.chunks.offset + start,
                torch.full((nbytes,), 0x55, dtype=torch.uint8, device=self.device),
            )
            for start, nbytes in self.shape.extents
        )

    def full_extents(self) -> Extents:
        extents = self.empty_extents()
        for extent, (start, nbytes) in zip(extents, self.shape.extents, strict=True):
            data = bytearray(self.payload[start : start + nbytes])
            extent.memory.copy_(torch.frombuffer(data, dtype=torch.uint8))
        return extents

    def assert_read(self, extents: Sequence[Extent]) -> None:
        for extent, (start, nbytes) in zip(extents, self.shape.extents, strict=True):
            assert _bytes(extent.memory) == self.payload[start : start + nbytes], (
                f"extent at {start}"
            )


class _InMemory:
    """A source without a descriptor."""

    def __init__(self, path: Path) -> None:
        self.path, self._data = path, path.read_bytes()

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._data[offset : offset + nbytes]

    def read_into(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        for buffer in buffers:
            data = self.read(offset, len(buffer))
            if len(data) < len(buffer):
                raise OSError(f"{self.path} ended early")
            ctypes.memmove(buffer, data, len(data))
            offset += len(data)

    def close(self) -> None:
        """Do nothing."""


def assert_set(event: threading.Event) -> None:
    """Wait until something has happened."""
    assert event.wait(60)


def _bytes(memory: torch.Tensor) -> bytes:
    host = memory.cpu()
    return bytes(host_buffer(host))


class BackendTests:
    """What every backend has to pass, on one device.

    Attributes:
        device: the device whose memory is read into and written from.
    """

    device: str = "cpu"

    def make_backend(self) -> Backend:
        """Build the backend under test."""
        raise NotImplementedError("return your backend")

    @pytest.fixture
    def backend(self) -> Backend:
        backend = self.make_backend()
        support = backend.probe(torch.device(self.device))
        if not support.available:
            pytest.skip(f"{backend.name} on {self.device}: {support.reason}")
        return backend

    @pytest.fixture(params=SHAPES)
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sample:
        return Sample(tmp_path, SHAPES[request.param], torch.device(self.device))

    @pytest.fixture
    def large(self, tmp_path: Path) -> Sample:
        return Sample(tmp_path, SHAPES["several-megabytes"], torch.device(self.device))

    @pytest.fixture
    def several(self, tmp_path: Path) -> list[Sample]:
        names = ("one-byte", "several-megabytes", "scattered-3")
        for name in names:
            (tmp_path / name).mkdir()
        where = torch.device(self.device)
        return [Sample(tmp_path / name, SHAPES[name], where, base=4099) for name in names]

    def write(self, backend: Backend, sample: Sample) -> Transfer:
        """Write a sample's extents to its file, as a freeze does."""
        size = sample.chunks.offset + sample.chunks.nbytes
        fd = os.open(sample.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.ftruncate(fd, size)
            target = FileTarget(sample.path, fd)
            return backend.write(target, WritePlan(sample.full_extents(), sample.chunks))
        finally:
            os.close(fd)

    def test_it_has_a_name(self) -> None:
        name = self.make_backend().name
        assert name and name != "auto"

    @pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:99", "meta", "mps"])
    def test_probe_answers_for_any_device(self, device: str) -> None:
        support = self.make_backend().probe(torch.device(device))
        assert isinstance(support, Support)
        assert support.reason
        assert bool(support.route) == support.available

    def test_reads_every_byte_and_checks_every_chunk(
        self, backend: Backend, sample: Sample
    ) -> None:
        extents = sample.empty_extents()
        done = backend.read(sample.write_file(), ReadPlan(extents, sample.digests))
        sample.assert_read(extents)
        step = CHUNK_NBYTES
        touched = {
            index
            for start, nbytes in sample.shape.extents
            for index in range(start // step, (start + nbytes - 1) // step + 1)
        }
        assert done.chunks_checked == len(touched)
        assert bool(done.route)

    def test_reads_without_digests(self, backend: Backend, sample: Sample) -> None:
        extents = sample.empty_extents()
        done = backend.read(sample.write_file(), ReadPlan(extents))
        sample.assert_read(extents)
        assert done.chunks_checked == 0

    def test_reads_at_odd_offsets(self, backend: Backend, tmp_path: Path) -> None:
        sample = Sample(tmp_path, SHAPES["scattered-3"], torch.device(self.device), base=4099)
        extents = sample.empty_extents()
        backend.read(sample.write_file(), ReadPlan(extents, sample.digests))
        sample.assert_read(extents)

    def test_reads_a_source_that_is_no_file(self, backend: Backend, large: Sample) -> None:
        large.write_file().close()
        source, extents = _InMemory(large.path), large.empty_extents()
        plan = ReadPlan(extents, large.digests)
        if not backend.serves(source):
            with pytest.raises(BackendError):
                backend.read(source, plan)
            return
        backend.read(source, plan)
        large.assert_read(extents)

    def test_a_closed_source_is_an_error(self, backend: Backend, large: Sample) -> None:
        source = large.write_file()
        source.close()
        # Its descriptor may be that of another file by now.
        with large.path.open("rb"), pytest.raises((ValueError, OSError, BackendError)):
            backend.read(source, ReadPlan(large.empty_extents(), large.digests))

    def test_writes_memory_of_the_host_beside_that_of_the_device(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        sample = Sample(tmp_path, SHAPES["scattered-3"], torch.device(self.device))
        full = sample.full_extents()
        mixed = Extents.of(
            Extent(each.offset, each.memory.cpu()) if number % 2 else each
            for number, each in enumerate(full)
        )
        fd = os.open(sample.path, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(fd, sample.chunks.offset + sample.chunks.nbytes)
            done = backend.write(FileTarget(sample.path, fd), WritePlan(mixed, sample.chunks))
        finally:
            os.close(fd)
        assert list(done.digests) == list(sample.digests.values)
        assert sample.path.read_bytes()[sample.chunks.offset :] == sample.payload

    def test_writes_what_the_reference_writes(self, backend: Backend, sample: Sample) -> None:
        expected = self.write(ReferenceBackend(), sample)
        wanted = sample.path.read_bytes()
        done = self.write(backend, sample)
        assert list(done.digests) == list(expected.digests) == list(sample.digests.values)
        assert sample.path.read_bytes() == wanted
        assert wanted[sample.chunks.offset :] == sample.payload

    def test_digests_are_those_of_the_bytes_that_it_wrote(
        self, backend: Backend, large: Sample
    ) -> None:
        """Memory may change while it is written: file and digests are of one copy of it."""
        fd = os.open(large.path, os.O_RDWR | os.O_CREAT)
        extents, over = large.full_extents(), threading.Event()

        def change() -> None:
            while not over.is_set():
                extents[0].memory.add_(1)

        try:
            os.ftruncate(fd, large.chunks.offset + large.chunks.nbytes)
            with ThreadPoolExecutor(1) as pool:
                changing = pool.submit(change)
                try:
                    plan = WritePlan(extents, large.chunks)
                    for _ in range(8):
                        done = backend.write(FileTarget(large.path, fd), plan)
                        large.payload = bytearray(large.path.read_bytes()[large.chunks.offset :])
                        assert list(done.digests) == large.found_digests()
                finally:
                    over.set()
                changing.result()
        finally:
            os.close(fd)

    def test_reads_back_what_it_wrote(self, backend: Backend, sample: Sample) -> None:
        done = self.write(backend, sample)
        extents = sample.empty_extents()
        digests = Digests(sample.chunks, done.digests)
        backend.read(FileSource(sample.path), ReadPlan(extents, digests))
        sample.assert_read(extents)

    @pytest.mark.parametrize("digested", [True, False])
    def test_reads_several_sources(
        self, backend: Backend, several: list[Sample], digested: bool
    ) -> None:
        plans = [
            ReadPlan(each.empty_extents(), each.digests if digested else None) for each in several
        ]
        reads = [(each.write_file(), plan) for each, plan in zip(several, plans, strict=True)]
        moved: list[int] = []
        done = backend.read_all(reads, progress=moved.append)
        for sample, plan, transfer in zip(several, plans, done, strict=True):
            sample.assert_read(plan.extents)
            assert bool(transfer.chunks_checked) == digested
        assert sum(moved) == sum(plan.nbytes for plan in plans)

    def test_names_the_source_of_several_that_ends_early(
        self, backend: Backend, several: list[Sample]
    ) -> None:
        reads = [(each.write_file(), ReadPlan(each.empty_extents())) for each in several]
        os.truncate(several[1].path, 5_000_000)
        with pytest.raises(TruncatedError) as caught:
            backend.read_all(reads)
        assert caught.value.path == os.fspath(several[1].path)

    @pytest.mark.parametrize("where", [0, 1, CHUNK_NBYTES, 5_000_000, 9_000_000, 9_000_447])
    def test_finds_a_flipped_bit(self, backend: Backend, large: Sample, where: int) -> None:
        large.payload[where] ^= 0x10
        with pytest.raises(ChecksumError) as caught:
            backend.read(large.write_file(), ReadPlan(large.empty_extents(), large.digests))
        index = where // CHUNK_NBYTES
        assert caught.value.code == "chunk-checksum"
        assert caught.value.offset == large.chunks.span(index)[0]

    def test_finds_a_flipped_bit_beside_the_extent(self, backend: Backend, tmp_path: Path) -> None:
        sample = Sample(tmp_path, SHAPES["inside-a-chunk"], torch.device(self.device))
        sample.payload[CHUNK_NBYTES] ^= 1
        with pytest.raises(ChecksumError):
            backend.read(sample.write_file(), ReadPlan(sample.empty_extents(), sample.digests))

    def test_chunks_without_extents_are_not_its_affair(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        sample = Sample(tmp_path, SHAPES["skips-chunks"], torch.device(self.device))
        sample.payload[4 * CHUNK_NBYTES] ^= 1
        extents = sample.empty_extents()
        done = backend.read(sample.write_file(), ReadPlan(extents, sample.digests))
        assert done.chunks_checked == 2

    def test_starts_a_read_and_returns_while_bytes_move(
        self, backend: Backend, large: Sample
    ) -> None:
        extents, returned = large.empty_extents(), threading.Event()
        reads = [(large.write_file(), ReadPlan(extents, large.digests))]
        with backend.start(reads, progress=lambda _: assert_set(returned)) as pending:
            assert not pending.done()
            returned.set()
            (done,) = pending.wait()
        assert pending.done()
        assert done.chunks_checked == len(large.chunks)
        large.assert_read(extents)

    def test_what_was_started_ends_with_its_error(self, backend: Backend, large: Sample) -> None:
        large.payload[5_000_000] ^= 0x10
        reads = [(large.write_file(), ReadPlan(large.empty_extents(), large.digests))]
        with pytest.raises(ChecksumError), backend.start(reads):
            pass
        pending = backend.start(reads)
        with pytest.raises(KeyError), pending:
            raise KeyError
        assert pending.done()
        with pytest.raises(ChecksumError):
            pending.wait()

    def test_reports_a_source_that_ends_early(self, backend: Backend, large: Sample) -> None:
        source = large.write_file()
        os.truncate(large.path, 5_000_000)
        with pytest.raises(TruncatedError):
            backend.read(source, ReadPlan(large.empty_extents(), large.digests))

    def test_works_again_after_an_error(self, backend: Backend, large: Sample) -> None:
        large.payload[77] ^= 1
        with pytest.raises(ChecksumError):
            backend.read(large.write_file(), ReadPlan(large.empty_extents(), large.digests))
        large.payload[77] ^= 1
        extents = large.empty_extents()
        backend.read(large.write_file(), ReadPlan(extents, large.digests))
        large.assert_read(extents)

    def test_reports_a_target_that_refuses(self, backend: Backend, large: Sample) -> None:
        fd = os.open("/dev/full", os.O_RDWR)
        try:
            plan = WritePlan(large.full_extents(), large.chunks)
            with pytest.raises(OSError, match="space"):
                backend.write(FileTarget(Path("/dev/full"), fd), plan)
        finally:
            os.close(fd)

    def test_progress_adds_up(self, backend: Backend, sample: Sample) -> None:
        moved: list[int] = []
        plan = ReadPlan(sample.empty_extents(), sample.digests)
        backend.read(sample.write_file(), plan, progress=moved.append)
        assert sum(moved) == plan.nbytes

    def test_serves_several_threads(self, backend: Backend, large: Sample) -> None:
        source = large.write_file()
        plans = [ReadPlan(large.empty_extents(), large.digests) for _ in range(6)]
        with ThreadPoolExecutor(len(plans)) as pool:
            list(pool.map(lambda plan: backend.read(source, plan), plans))
        for plan in plans:
            large.assert_read(plan.extents)
