"""Files that are damaged, cut, changed or unreadable while each backend restores them."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from parity_plans import Mover, assert_same, bytes_in, noise
from safetensors.torch import save_file

import thaw

CHUNK_NBYTES = 1 << 16
CHUNKS = 16
SIZES = {
    "first": 1,
    "second": 3 * CHUNK_NBYTES + 77,
    "third": 600,
    "fourth": 5 * CHUNK_NBYTES - 513,
    "fifth": 512,
    "sixth": 7 * CHUNK_NBYTES + 1234,
}
LARGE_NBYTES = 24 << 20


def tensors(seed: int = 1) -> dict[str, torch.Tensor]:
    return {
        name: torch.frombuffer(bytearray(noise(nbytes, seed + at)), dtype=torch.uint8)
        for at, (name, nbytes) in enumerate(SIZES.items())
    }


def large(seed: int) -> dict[str, torch.Tensor]:
    """Make more than backends have under way at a time."""
    names = "abcd"
    return {
        name: torch.frombuffer(bytearray(noise(LARGE_NBYTES, seed + at)), dtype=torch.uint8)
        for at, name in enumerate(names)
    }


def assert_restored(restored: thaw.Restored, wanted: dict[str, torch.Tensor]) -> None:
    assert set(restored) == set(wanted)
    for name, tensor in wanted.items():
        assert_same(bytes_in(restored[name]), bytes_in(tensor), name)


def restore(mover: Mover, path: Path | thaw.Snapshot, **options: object) -> thaw.Restored:
    return thaw.restore(path, device=mover.device, backend=mover.name, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    thaw.freeze(tensors(), tmp_path / "m.thaw", backend="reference", chunk_nbytes=CHUNK_NBYTES)
    return tmp_path / "m.thaw"


def places(snapshot: thaw.Snapshot) -> list[int]:
    """Choose 64 bytes of the payload: the ends of every chunk, padding, and some at random."""
    chunks = snapshot.digests[0].chunks
    assert len(chunks) == CHUNKS
    ends = [at for index in range(CHUNKS) for at in _ends(*chunks.span(index))]
    stop = chunks.offset + chunks.nbytes
    after = [each.offset + each.nbytes for each in snapshot.storages]
    padding = [at for at in after if at < stop and not snapshot.tensors_at(0, at, at + 1)]
    assert len(padding) >= 3
    choose = random.Random(64)
    rest = [choose.randrange(chunks.offset, stop) for _ in range(64 - len(ends) - len(padding))]
    return [*ends, *padding, *rest]


def _ends(start: int, stop: int) -> tuple[int, int]:
    return start, stop - 1


@contextmanager
def flipped(path: Path, at: int) -> Iterator[None]:
    with path.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([before[0] ^ 0x40]), at)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), before, at)


def test_a_flipped_byte_anywhere(mover: Mover, path: Path) -> None:
    with thaw.open(path) as snapshot:
        chunks = snapshot.digests[0].chunks
        for at in places(snapshot):
            with flipped(path, at), pytest.raises(thaw.ChecksumError) as caught:
                restore(mover, snapshot)
            start, end = chunks.span((at - chunks.offset) // CHUNK_NBYTES)
            assert (caught.value.code, caught.value.offset) == ("chunk-checksum", start), at
            for name in snapshot.tensors_at(0, start, end)[:3]:
                assert repr(name) in str(caught.value)
        assert_restored(restore(mover, snapshot), tensors())


def test_a_flipped_byte_in_every_chunk(mover: Mover, path: Path) -> None:
    with thaw.open(path) as snapshot:
        chunks = snapshot.digests[0].chunks
    data = bytearray(path.read_bytes())
    for index in range(CHUNKS):
        data[chunks.span(index)[0] + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(thaw.ChecksumError):
        restore(mover, path)


@pytest.mark.parametrize("lost", [1, 4095, 4096, 100_001, 10 * CHUNK_NBYTES, "payload"])
def test_a_file_that_is_cut_after_it_was_opened(mover: Mover, path: Path, lost: int | str) -> None:
    with thaw.open(path) as snapshot:
        nbytes = path.stat().st_size - snapshot.digests[0].chunks.offset
        os.truncate(path, path.stat().st_size - (nbytes if lost == "payload" else int(lost)))
        with pytest.raises(thaw.TruncatedError):
            restore(mover, snapshot)


def test_a_file_without_digests_that_is_cut(mover: Mover, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(tensors(), path)
    with thaw.open(path) as snapshot:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(thaw.TruncatedError):
            restore(mover, snapshot)


def test_a_file_that_grows(mover: Mover, path: Path) -> None:
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.001):
                file.write(bytes(5001))

    with thaw.open(path) as snapshot, ThreadPoolExecutor(1) as pool:
        growing = pool.submit(grow)
        try:
            for _ in range(10):
                assert_restored(restore(mover, snapshot), tensors())
        finally:
            stop.set()
        growing.result()


def test_a_file_that_is_replaced_while_it_is_restored(mover: Mover, tmp_path: Path) -> None:
    path, other = tmp_path / "m.thaw", tmp_path / "other.thaw"
    first, second = large(1), large(11)
    thaw.freeze(first, path, backend="reference")
    thaw.freeze(second, other, backend="reference")
    once = threading.Lock()

    def replace(nbytes: int) -> None:
        assert nbytes > 0
        if once.acquire(blocking=False):
            other.replace(path)

    assert_restored(restore(mover, path, progress=replace), first)
    assert not other.exists()
    assert_restored(restore(mover, path), second)


@pytest.mark.parametrize("kind", ["failing", "folder", "write-only"])
def test_a_file_that_cannot_be_read(mover: Mover, path: Path, tmp_path: Path, kind: str) -> None:
    """A descriptor that gives EIO, as a failing disk does, or EISDIR, or EBADF.

    The file that is the memory of this process gives EIO where nothing is mapped. It has no size,
    so "truncated" is a fair answer, too.
    """
    where, flags = {
        "failing": ("/proc/self/mem", os.O_RDONLY),
        "folder": (tmp_path, os.O_RDONLY),
        "write-only": (tmp_path / "other", os.O_WRONLY | os.O_CREAT),
    }[kind]
    with thaw.open(path) as snapshot:
        fd = os.open(where, flags)
        try:
            os.dup2(fd, snapshot.sources[0].fileno())
        finally:
            os.close(fd)
        with pytest.raises((thaw.TransferError, thaw.TruncatedError)) as caught:
            restore(mover, snapshot)
    if kind == "failing" and not isinstance(caught.value, thaw.TruncatedError):
        assert os.strerror(errno.EIO) in str(caught.value)
    assert caught.value.path == str(path)
    assert_restored(restore(mover, path), tensors())


def test_threads_that_restore_different_files(mover: Mover, tmp_path: Path) -> None:
    for index in range(8):
        thaw.freeze(tensors(index), tmp_path / f"{index}.thaw", backend="reference")

    def again(index: int) -> None:
        for _ in range(4):
            assert_restored(restore(mover, tmp_path / f"{index}.thaw"), tensors(index))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(again, range(8)))


def test_threads_that_freeze_different_files(mover: Mover, tmp_path: Path) -> None:
    def again(index: int) -> None:
        held = {name: tensor.to(mover.device) for name, tensor in tensors(index).items()}
        for _ in range(3):
            thaw.freeze(held, tmp_path / f"{index}.thaw", backend=mover.name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(again, range(8)))
    for index in range(8):
        thaw.verify(tmp_path / f"{index}.thaw")
        assert_restored(thaw.restore(tmp_path / f"{index}.thaw"), tensors(index))


def test_threads_of_which_one_fails(mover: Mover, path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.thaw"
    data = bytearray(path.read_bytes())
    data[-(5 * CHUNK_NBYTES)] ^= 1
    damaged.write_bytes(data)

    def again(which: Path) -> None:
        for _ in range(6):
            if which == path:
                assert_restored(restore(mover, path), tensors())
            else:
                with pytest.raises(thaw.ChecksumError):
                    restore(mover, damaged)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(again, [path, damaged, path, damaged]))
