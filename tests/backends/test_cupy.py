"""The CuPy backend: the kit on a device; without one how it probes, cuts plans and joins CRCs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from thaw_format import ChecksumError, FileSource, FileTarget, TruncatedError

import thaw
from thaw import Extent, Extents, ReadPlan, TransferError, WritePlan
from thaw.plugins import host
from thaw.restoring.pinning import PinnedSource
from thaw.testing import CHUNK_NBYTES, SHAPES, BackendTests, Sample

thaw_cupy = pytest.importorskip("thaw_cupy")

CUDA = torch.device("cuda", 0)


@pytest.mark.gpu
class TestCupyCuda(BackendTests):
    device = "cuda"
    settings: ClassVar[dict[str, Any]] = {}

    def make_backend(self) -> Any:
        return thaw_cupy.CupyBackend(**self.settings)


class TestCupyWithChunksLargerThanPieces(TestCupyCuda):
    settings: ClassVar = {"piece_nbytes": 5 * 4096}


class TestCupyWithOneBuffer(TestCupyCuda):
    settings: ClassVar = {"piece_nbytes": CHUNK_NBYTES, "buffers": 1}


class TestCupyWithOneReader(TestCupyCuda):
    settings: ClassVar = {"readers": 1}


class TestCupyWithThreeBuffers(TestCupyCuda):
    settings: ClassVar = {"piece_nbytes": 2 * CHUNK_NBYTES, "buffers": 3}


@pytest.fixture
def backend() -> Any:
    backend = thaw_cupy.CupyBackend(piece_nbytes=5 * 4096)
    support = backend.probe(CUDA)
    if not support.available:
        pytest.skip(support.reason)
    return backend


@pytest.fixture
def large(tmp_path: Path) -> Sample:
    return Sample(tmp_path, SHAPES["several-megabytes"], CUDA)


def odd_extents(sample: Sample) -> Extents:
    """Give the extents memory at odd addresses within one allocation."""
    arena = torch.full((2 * sample.shape.payload_nbytes + 64,), 0x55, dtype=torch.uint8).cuda()
    extents, at = [], 1
    for start, nbytes in sample.shape.extents:
        extents.append(Extent(sample.chunks.offset + start, arena[at : at + nbytes]))
        at += nbytes + 3 - nbytes % 2
    return Extents.of(extents)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_it_reads_from_pinned_files(backend: Any, tmp_path: Path, shape: str) -> None:
    sample = Sample(tmp_path, SHAPES[shape], CUDA, base=4099)
    source = PinnedSource(sample.write_file())
    try:
        extents = sample.empty_extents()
        done = backend.read(source, ReadPlan(extents, sample.digests))
        sample.assert_read(extents)
        assert done.route == "pinned"
    finally:
        source.close()


@pytest.mark.gpu
def test_it_checks_pinned_files(backend: Any, large: Sample) -> None:
    large.payload[5_000_000] ^= 0x10
    source = PinnedSource(large.write_file())
    try:
        with pytest.raises(ChecksumError):
            backend.read(source, ReadPlan(large.empty_extents(), large.digests))
    finally:
        source.close()


@pytest.mark.gpu
def test_it_does_not_copy_what_lies_behind_a_pinned_file(backend: Any, large: Sample) -> None:
    whole = large.write_file()
    os.truncate(large.path, 5_000_000)
    whole.close()
    source = PinnedSource(FileSource(large.path))
    try:
        with pytest.raises(TruncatedError):
            backend.read(source, ReadPlan(large.empty_extents(), large.digests))
    finally:
        source.close()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", ["adjacent", "thousands-of-tiny", "scattered-3", "scattered-5"])
def test_it_reads_to_odd_addresses_and_writes_from_there(
    backend: Any, tmp_path: Path, shape: str
) -> None:
    sample = Sample(tmp_path, SHAPES[shape], CUDA, base=4097)
    extents = odd_extents(sample)
    backend.read(sample.write_file(), ReadPlan(extents, sample.digests))
    sample.assert_read(extents)
    written = write(backend, sample, extents)
    assert list(written) == list(sample.digests.values)


@pytest.mark.gpu
def test_it_writes_extents_of_the_host_beside_those_of_the_device(
    backend: Any, tmp_path: Path
) -> None:
    sample = Sample(tmp_path, SHAPES["scattered-3"], CUDA)
    mixed = Extents.of(
        Extent(extent.offset, extent.memory.cpu() if index % 2 else extent.memory)
        for index, extent in enumerate(sample.full_extents())
    )
    assert list(write(backend, sample, mixed)) == list(sample.digests.values)


def write(backend: Any, sample: Sample, extents: Extents) -> Sequence[int]:
    """Write extents to a file of zeros, and check it against the sample."""
    path = sample.path.with_name("written.bin")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, sample.chunks.offset + sample.chunks.nbytes)
        done = backend.write(FileTarget(path, fd), WritePlan(extents, sample.chunks))
    finally:
        os.close(fd)
    assert path.read_bytes()[sample.chunks.offset :] == sample.payload
    digests: Sequence[int] = done.digests
    return digests


@pytest.mark.gpu
def test_it_waits_for_what_the_caller_s_stream_does(backend: Any, large: Sample) -> None:
    extents = large.empty_extents()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)
        for extent in extents:
            extent.memory.fill_(1)
        backend.read(large.write_file(), ReadPlan(extents, large.digests))
    large.assert_read(extents)


@pytest.mark.gpu
def test_it_pins_once_and_keeps_no_device_memory(
    backend: Any, large: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = pytest.importorskip("cupy")
    pinned: list[int] = []
    make = cupy.cuda.PinnedMemory
    monkeypatch.setattr(cupy.cuda, "PinnedMemory", lambda n: pinned.append(n) or make(n))
    extents, source = large.empty_extents(), large.write_file()
    gc.collect()  # What earlier tests left would be freed meanwhile.
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        backend.read(source, ReadPlan(extents, large.digests))
    assert pinned == [5 * 4096] * 2
    assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
def test_it_works_again_after_an_interrupt(backend: Any, large: Sample) -> None:
    source = large.write_file()
    plan = ReadPlan(large.empty_extents(), large.digests)

    def interrupt(moved: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.read(source, plan, progress=interrupt)
    backend.read(source, plan)
    large.assert_read(plan.extents)


@pytest.mark.gpu
def test_it_says_what_it_could_not_move_when_memory_runs_out(backend: Any, large: Sample) -> None:
    greedy = thaw_cupy.CupyBackend(piece_nbytes=1 << 44)
    with pytest.raises(TransferError, match="memory") as caught:
        greedy.read(large.write_file(), ReadPlan(large.empty_extents(), large.digests))
    assert (caught.value.offset, caught.value.nbytes) == (4096, 9_000_001)


# What follows needs no device.


def test_it_is_a_plugin() -> None:
    points = entry_points(group=host.ENTRY_POINT_GROUP, name="cupy")
    loaded = host.load(points)
    assert loaded.broken == []
    assert loaded.distributions["cupy"] == "thaw-snapshot-cupy"


def test_importing_it_imports_no_cupy() -> None:
    code = "import sys, thaw_cupy; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"buffers": 0},
        {"piece_nbytes": 0},
        {"piece_nbytes": -4096},
        {"piece_nbytes": 4097},
        {"readers": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        thaw_cupy.CupyBackend(**wrong)


class NoDeviceError(RuntimeError):
    """Stands for the error of CuPy's runtime."""


def fake_cupy(*, driver: int = 13000, count: int = 1, error: str = "") -> Any:
    def get_device_count() -> int:
        if error:
            raise NoDeviceError(error)
        return count

    runtime = SimpleNamespace(
        driverGetVersion=lambda: driver,
        getDeviceCount=get_device_count,
        CUDARuntimeError=NoDeviceError,
    )
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


@pytest.mark.parametrize(
    ("cupy", "torch_count", "device", "reason"),
    [
        (fake_cupy(), 1, "cpu", "it moves the memory of CUDA devices, not of 'cpu'"),
        (fake_cupy(), 1, "meta", "not of 'meta'"),
        (None, 1, "cuda", "CuPy is not installed"),
        (fake_cupy(driver=0), 1, "cuda", "there is no CUDA driver"),
        (fake_cupy(error="no\n CUDA-capable device"), 1, "cuda", "device: no CUDA-capable device"),
        (fake_cupy(), 0, "cuda", "torch sees no CUDA device"),
        (fake_cupy(count=2), 1, "cuda:1", "CUDA devices here: 1; there is no cuda:1"),
        (fake_cupy(count=1), 2, "cuda:1", "CUDA devices here: 1; there is no cuda:1"),
    ],
)
def test_probing_says_why_it_cannot_serve(
    monkeypatch: pytest.MonkeyPatch, cupy: Any, torch_count: int, device: str, reason: str
) -> None:
    pretend(monkeypatch, cupy, torch_count)
    support = thaw_cupy.CupyBackend().probe(torch.device(device))
    assert not support.available
    assert reason in support.reason
    assert support.route == ""


def test_probing_names_the_path_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, fake_cupy(count=2), 2)
    support = thaw_cupy.CupyBackend().probe(torch.device("cuda", 1))
    assert support.available
    assert support.route == "pinned-double-buffer"


def test_probing_says_why_cupy_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so.13:\\n  not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    support = thaw_cupy.CupyBackend().probe(CUDA)
    assert support.reason == "CuPy cannot be imported: libcudart.so.13: not found"


def test_probing_with_the_real_cupy_but_no_device() -> None:
    pytest.importorskip("cupy")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    support = thaw_cupy.CupyBackend().probe(CUDA)
    assert not support.available
    assert "CUDA" in support.reason


def pretend(monkeypatch: pytest.MonkeyPatch, cupy: Any, torch_count: int) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: torch_count)


@pytest.mark.parametrize(
    ("parts", "address"),
    [
        ([(100, 8, 5000, False)], 5000),
        ([(100, 8, 5000, True)], None),
        ([(100, 7, 5000, False)], None),
        ([(100, 4, 5000, False), (104, 4, 5004, False)], None),
        ([], None),
    ],
)
def test_a_piece_goes_straight_to_memory_that_holds_all_of_it(
    parts: list[tuple[int, int, int, bool]], address: int | None
) -> None:
    piece = thaw.Piece(100, 8, tuple(thaw.Part(*part) for part in parts), ())
    assert thaw_cupy.steps.device_address(piece) == address
