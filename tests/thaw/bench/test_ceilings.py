"""The ceilings: they are positive, say why not, and leave nothing behind."""

import os
import time
from pathlib import Path

import pytest
import torch

from thaw.bench.ceilings import measure_ceilings
from thaw.bench.disk import filesystem, nameless_file
from thaw.bench.threads import move_pieces
from thaw.bench.ways import Ceiling

CPU = torch.device("cpu")
SHARED_MEMORY = Path("/dev/shm")
needs_tmpfs = pytest.mark.skipif(
    not SHARED_MEMORY.is_dir() or filesystem(SHARED_MEMORY) != "tmpfs", reason="no tmpfs here"
)


def measure(folder: Path, device: torch.device = CPU) -> dict[str, Ceiling]:
    found = measure_ceilings(folder, device, nbytes=20 << 20, repeat=2)
    return {each.name: each for each in found}


def test_they_are_positive_and_the_best_of_their_ways(tmp_path: Path) -> None:
    found = measure(tmp_path)
    assert list(found) == ["memcpy", "read-page-cache", "read-direct", "write"]
    for each in found.values():
        for way in each.detail:
            if way.gbps is None:
                assert way.reason
            else:
                assert way.lowest and way.highest
                assert 0 < way.lowest <= way.gbps <= way.highest
        assert each.gbps == max((way.gbps for way in each.detail if way.gbps), default=None)
    assert found["memcpy"].gbps and found["read-page-cache"].gbps and found["write"].gbps
    assert list(tmp_path.iterdir()) == []


@needs_tmpfs
def test_memory_is_no_disk(tmp_path: Path) -> None:
    found = measure(SHARED_MEMORY)
    assert found["read-direct"].gbps is None
    assert "tmpfs is memory" in str(found["read-direct"].detail[0].reason)
    assert found["write"].gbps


def test_a_refused_way_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return open_file(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("thaw.bench.disk._IN_MEMORY", set())
    found = measure(tmp_path)
    assert found["read-direct"] == Ceiling.of("read-direct", found["read-direct"].detail)
    assert found["read-direct"].gbps is None
    assert found["read-direct"].detail[0].reason == "Invalid argument"
    assert {way.reason for way in found["write"].detail} == {None, "Invalid argument"}
    assert found["write"].gbps


@pytest.mark.parametrize("call", ["preadv", "pwrite", "fsync"])
def test_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    opened = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == opened


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with nameless_file(tmp_path) as (fd, direct):
        assert list(tmp_path.iterdir()) == []
        os.pwrite(fd, b"x" * 4096, 0)
        if isinstance(direct, int):
            assert os.fstat(direct).st_size == 4096


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_is_a_reason(tmp_path: Path) -> None:
    found = measure(tmp_path, torch.device("cuda"))
    assert list(found)[:2] == ["h2d-pinned", "d2h-pinned"]
    assert found["h2d-pinned"].gbps is None
    assert found["h2d-pinned"].detail[0].reason == "torch sees no CUDA device"
    assert found["memcpy"].gbps


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_bus(tmp_path: Path) -> None:
    found = measure(tmp_path, torch.device("cuda"))
    for name in ("h2d-pinned", "d2h-pinned"):
        assert [way.how for way in found[name].detail] == ["one copy", "4 MiB pieces"]
        assert (found[name].gbps or 0) > 1
    assert found["read-page-cache"].gbps


def test_every_piece_moves_once_and_the_end_counts() -> None:
    moved: list[int] = []

    def move(_: int, number: int) -> int:
        moved.append(number)
        return 10**6

    gbps = move_pieces(move, 100, threads=4, finish=lambda: time.sleep(0.1))
    assert sorted(moved) == list(range(100))
    assert 0 < gbps <= 100 * 10**6 / 0.1 / 1e9


def test_no_piece_begins_after_the_limit() -> None:
    def move(_: int, number: int) -> int:
        time.sleep(0.02)
        return 1

    began = time.perf_counter()
    gbps = move_pieces(move, 10**6, threads=2, limit_s=0.1)
    assert time.perf_counter() - began < 5
    assert gbps > 0


def test_an_error_stops_the_other_threads() -> None:
    moved: list[int] = []

    def move(_: int, number: int) -> int:
        if number == 3:
            raise OSError("no")
        time.sleep(0.001)
        moved.append(number)
        return 1

    with pytest.raises(OSError, match="no"):
        move_pieces(move, 10**6, threads=4)
    assert len(moved) < 10**5
