"""Faults while freezing: the old snapshot is whole, the new one whole or absent."""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

import thaw

NBYTES = 9_000_000


def tensors(value: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((NBYTES,), value, dtype=torch.uint8), "b": torch.tensor([value])}


def value_in(path: Path) -> int:
    thaw.verify(path)
    restored = thaw.restore(path)
    assert torch.equal(restored["a"], tensors(int(restored["b"]))["a"])
    return int(restored["b"])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    thaw.freeze(tensors(1), tmp_path / "m.thaw")
    return tmp_path / "m.thaw"


CHILD = """
import os, signal, sys, torch
from thaw import freeze
calls, at = 0, int(sys.argv[2])
def counted(original):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call
for name in ("open", "ftruncate", "pwritev", "pwrite", "fsync", "rename", "close", "listdir"):
    setattr(os, name, counted(getattr(os, name)))
tensors = {"a": torch.full((9_000_000,), 2, dtype=torch.uint8), "b": torch.tensor([2])}
freeze(tensors, sys.argv[1])
print("done", calls)
"""


def freeze_and_kill(path: Path, step: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, str(path), str(step)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_kill_at_each_step(old: Path) -> None:
    survived = freeze_and_kill(old.with_name("other.thaw"), 0)
    steps = int(survived.stdout.split()[1])
    assert steps >= 10
    found = []
    with ThreadPoolExecutor(2) as pool:
        paths = [old.with_name(f"m{step}.thaw") for step in range(1, steps + 1)]
        for path in paths:
            path.write_bytes(old.read_bytes())
        done = list(pool.map(freeze_and_kill, paths, range(1, steps + 1)))
    for path, each in zip(paths, done, strict=True):
        assert each.returncode == -signal.SIGKILL
        found.append(value_in(path))
    assert found == sorted(found), "old until the rename, new after it"
    assert found[0] == 1
    assert found[-1] == 2


def test_what_a_killed_writer_left_is_removed(old: Path) -> None:
    freeze_and_kill(old, 6)
    assert len(list(old.parent.iterdir())) == 2
    assert value_in(old) == 1
    thaw.freeze(tensors(3), old)
    assert [path.name for path in old.parent.iterdir()] == ["m.thaw"]
    assert value_in(old) == 3


def test_a_file_size_limit(old: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (NBYTES // 2, before[1]))
    try:
        with pytest.raises(OSError, match="large") as caught:
            thaw.freeze(tensors(2), old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in old.parent.iterdir()] == ["m.thaw"]
    assert value_in(old) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=12m"):
        pytest.skip(f"no mount allowed here: {os.strerror(ctypes.get_errno())}")
    try:
        path = folder / "m.thaw"
        thaw.freeze(tensors(1), path)
        with pytest.raises(OSError, match="No space left") as caught:
            thaw.freeze(tensors(2), path)
        assert caught.value.errno == errno.ENOSPC
        assert [each.name for each in folder.iterdir()] == ["m.thaw"]
        assert value_in(path) == 1
    finally:
        libc.umount2(bytes(folder), 2)


@pytest.mark.parametrize("name", ["pwritev", "pwrite", "fsync", "ftruncate", "rename"])
def test_an_io_error_at_each_call(old: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="Input/output error"):
        thaw.freeze(tensors(2), old, backend="reference")
    monkeypatch.undo()
    assert [path.name for path in old.parent.iterdir()] == ["m.thaw"]
    assert value_in(old) == 1


def test_short_reads_and_writes(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pwritev, preadv = os.pwrite, os.pwritev, os.preadv

    def first(buffers: list[bytes]) -> list[memoryview]:
        return [memoryview(buffers[0]).cast("B")[:70_001]]

    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, memoryview(data)[:3], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, data, at: pwritev(fd, first(data), at))
    monkeypatch.setattr(os, "preadv", lambda fd, data, at: preadv(fd, first(data), at))
    thaw.freeze(tensors(5), old, backend="reference")
    assert int(thaw.restore(old, backend="reference")["b"]) == 5
    monkeypatch.undo()
    assert value_in(old) == 5


def test_two_writers_to_one_path(tmp_path: Path) -> None:
    path = tmp_path / "m.thaw"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: thaw.freeze(tensors(value), path), range(16)))
    assert value_in(path) in range(16)
    assert [each.name for each in tmp_path.iterdir()] == ["m.thaw"]


def test_a_writer_whose_new_file_is_taken_for_an_abandoned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer opens the file before it is locked, locks it, and then takes its time."""
    flock, others = fcntl.flock, list[Thread]()

    def lock_after_another(fd: int, operation: int) -> None:
        monkeypatch.undo()
        (partial,) = tmp_path.iterdir()
        held = os.open(partial, os.O_RDWR)
        flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)

        def remove() -> None:
            time.sleep(0.2)
            partial.unlink()
            os.close(held)

        others.append(Thread(target=remove))
        others[0].start()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_another)
    thaw.freeze(tensors(3), tmp_path / "m.thaw")
    others[0].join()
    assert value_in(tmp_path / "m.thaw") == 3
    assert [each.name for each in tmp_path.iterdir()] == ["m.thaw"]


def test_a_replaced_file_does_not_change_an_open_snapshot(old: Path) -> None:
    with thaw.open(old) as snapshot:
        thaw.freeze(tensors(2), old)
        assert int(thaw.restore(snapshot)["b"]) == 1
    assert value_in(old) == 2


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing/m.thaw", FileNotFoundError),
        (".", IsADirectoryError),
        ("m.thaw/x", NotADirectoryError),
    ],
)
def test_nonsense_destinations(old: Path, path: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        thaw.freeze(tensors(2), old.parent / path)
    assert value_in(old) == 1


def test_a_long_name_of_wide_characters(tmp_path: Path) -> None:
    path = tmp_path / f"{'長' * 83}.thaw"
    thaw.freeze(tensors(1), path)
    assert value_in(path) == 1


def test_a_rank_s_file_under_another_name_is_not_sealed(tmp_path: Path) -> None:
    for rank in range(2):
        shard = thaw.Shard(rank, 2)
        thaw.freeze(tensors(rank), tmp_path / "m", shard=shard, snapshot_id="ab" * 16)
    (staged,) = tmp_path.iterdir()
    first, *_ = sorted(staged.iterdir())
    first.rename(first.with_name("rank-0-of-2.thaw"))
    with pytest.raises(thaw.FormatError, match=r"is not called 'rank-00000-of-00002\.thaw'"):
        thaw.finish_ranks(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_metadata_that_contains_itself_or_has_keys_that_are_no_text(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = [endless]
    with pytest.raises(thaw.FormatError, match="nested deeper than 32 levels"):
        thaw.freeze(tensors(1), tmp_path / "m.thaw", metadata=endless)
    for odd in (OrderedDict({1: 2}), {"inner": (OrderedDict({1: 2}),)}):
        with pytest.raises(TypeError, match="1 is no name"):
            thaw.freeze(tensors(1), tmp_path / "m.thaw", metadata=odd)
    assert list(tmp_path.iterdir()) == []
