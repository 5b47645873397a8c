"""Little memory, little disk, forbidden calls, interrupts, and many restores one after another."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import PIPE
from typing import TypeAlias

import parity_children
import psutil
import pytest
import torch
from parity_plans import Mover, noise

import thaw

Children: TypeAlias = "Mapping[str, tuple[subprocess.Popen[str], Path]]"

BIG_NBYTES = 256 << 20
ENDS_WITHIN_S = 2.0
MAX_GROWTH_NBYTES = 48 << 20


def command(task: str, mover: Mover, path: Path) -> list[str]:
    return [
        sys.executable,
        parity_children.__file__,
        task,
        mover.name,
        str(mover.device),
        str(path),
    ]


@pytest.fixture(scope="module")
def children(mover: Mover, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    """Start a process for each limit, all at once: starting torch and CUDA takes seconds."""
    started = {}
    for task in ("without_locked_memory", "without_io_uring", "within_a_size_limit"):
        path = tmp_path_factory.mktemp(task) / "m.thaw"
        child = subprocess.Popen(command(task, mover, path), stdout=PIPE, stderr=PIPE, text=True)
        started[task] = (child, path.parent)
    yield started
    for child, _ in started.values():
        child.kill()
        child.communicate()


def outcome(children: Children, task: str) -> str:
    child, _ = children[task]
    stdout, stderr = child.communicate(timeout=120)
    if child.returncode == parity_children.NOT_POSSIBLE:
        pytest.skip(stdout.strip())
    assert child.returncode == 0, stderr
    return stdout.strip()


def round_trip(mover: Mover, path: Path) -> thaw.Restored:
    wanted = {
        "a": torch.frombuffer(bytearray(noise(9_000_001, 1)), dtype=torch.uint8),
        "b": torch.frombuffer(bytearray(noise(3, 2)), dtype=torch.uint8),
    }
    held = {name: tensor.to(mover.device) for name, tensor in wanted.items()}
    thaw.freeze(held, path, backend=mover.name)
    restored = thaw.restore(path, device=mover.device, backend=mover.name)
    for name, tensor in wanted.items():
        assert torch.equal(restored[name].cpu(), tensor)
    return restored


def test_memory_that_cannot_be_locked(mover: Mover, children: Children) -> None:
    said = outcome(children, "without_locked_memory")
    if not mover.on_cuda:
        assert said.startswith("identical"), said
    assert said.startswith(("identical by ", "backend error: "))


def test_io_uring_that_is_forbidden(children: Children) -> None:
    assert outcome(children, "without_io_uring").startswith("identical by ")


def test_a_file_system_in_memory(mover: Mover) -> None:
    path = Path(f"/dev/shm/thaw-test-{os.getpid()}.thaw")
    try:
        round_trip(mover, path)
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    kind, options = request.param
    folder = tmp_path / "mounted"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind, bytes(folder), kind, 0, options):
        pytest.skip(f"no mount allowed here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(bytes(folder), 2)


@pytest.mark.parametrize("mounted", [(b"ramfs", None)], ids=["ramfs"], indirect=True)
def test_a_file_system_without_direct_access(mover: Mover, mounted: Path) -> None:
    path = mounted / "m.thaw"
    path.touch()
    with pytest.raises(OSError, match="Invalid argument"):
        os.open(path, os.O_RDONLY | os.O_DIRECT)
    round_trip(mover, path)


@pytest.mark.parametrize("mounted", [(b"tmpfs", b"size=6m")], ids=["tmpfs"], indirect=True)
def test_a_full_disk(mover: Mover, mounted: Path) -> None:
    held = {"x": torch.ones(9_000_000, dtype=torch.uint8, device=mover.device)}
    with pytest.raises(OSError, match="No space left") as caught:
        thaw.freeze(held, mounted / "m.thaw", backend=mover.name)
    assert caught.value.errno == errno.ENOSPC
    assert list(mounted.iterdir()) == []
    small = {"x": held["x"][:100_000]}
    thaw.freeze(small, mounted / "m.thaw", backend=mover.name)
    thaw.verify(mounted / "m.thaw")


def test_a_file_size_limit(children: Children) -> None:
    assert outcome(children, "within_a_size_limit") == f"OSError: {os.strerror(errno.EFBIG)}"
    assert list(children["within_a_size_limit"][1].iterdir()) == []


@pytest.mark.parametrize("task", ["restore_forever", "freeze_forever"])
def test_an_interrupt(mover: Mover, tmp_path: Path, task: str) -> None:
    path = tmp_path / "m.thaw"
    if task == "restore_forever":
        thaw.freeze({"x": torch.ones(BIG_NBYTES, dtype=torch.uint8)}, path, backend="reference")
    with subprocess.Popen(command(task, mover, path), stdout=PIPE, stderr=PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "moving\n"
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            stdout, stderr = child.communicate(timeout=60)
        finally:
            child.kill()
    assert float(stdout) - sent < ENDS_WITHIN_S
    assert child.returncode == -signal.SIGINT, stderr
    assert stderr.rstrip().endswith("KeyboardInterrupt"), stderr
    assert {each.name for each in tmp_path.iterdir()} <= {path.name}
    if path.exists():
        thaw.verify(path)


def footprint(device: torch.device) -> tuple[int, int, int, int]:
    """Return bytes of the host and of the device, open files, and threads."""
    gc.collect()
    used_nbytes = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        free_nbytes, total_nbytes = torch.cuda.mem_get_info(device)
        used_nbytes = total_nbytes - free_nbytes
    process = psutil.Process()
    return process.memory_info().rss, used_nbytes, process.num_fds(), process.num_threads()


@pytest.mark.alone
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_restores_one_after_another(mover: Mover, tmp_path: Path, count: int) -> None:
    """Each of them takes memory for 13 MB, so that what is left behind would soon show."""
    path = tmp_path / "m.thaw"
    tensor = torch.frombuffer(bytearray(noise(13_000_000, 1)), dtype=torch.uint8)
    thaw.freeze({"x": tensor}, path, backend="reference")
    damaged = tmp_path / "damaged.thaw"
    data = bytearray(path.read_bytes())
    data[-4097] ^= 1
    damaged.write_bytes(data)

    def repeat(times: int) -> None:
        for _ in range(times):
            thaw.restore(path, device=mover.device, backend=mover.name)
            with pytest.raises(thaw.ChecksumError):
                thaw.restore(damaged, device=mover.device, backend=mover.name)

    repeat(5)
    before = footprint(mover.device)
    repeat(count)
    host, device, files, threads = (
        after - was for after, was in zip(footprint(mover.device), before, strict=True)
    )
    assert host < MAX_GROWTH_NBYTES
    assert device < MAX_GROWTH_NBYTES
    assert max(files, threads) < count // 2


@pytest.fixture
def full_device(mover: Mover) -> Iterator[list[torch.Tensor]]:
    """Take all of the device's memory, down to the last two megabytes."""
    if not mover.on_cuda:
        pytest.skip("the memory of the host is better not filled")
    torch.cuda.empty_cache()
    held: list[torch.Tensor] = []
    for nbytes in (4 << 30, 256 << 20, 16 << 20, 2 << 20):
        while True:
            try:
                held.append(torch.empty(nbytes, dtype=torch.uint8, device=mover.device))
            except torch.OutOfMemoryError:
                break
    yield held
    held.clear()
    torch.cuda.empty_cache()


@pytest.fixture
def warm(mover: Mover, tmp_path: Path) -> Path:
    """A snapshot that was frozen and restored while there was room."""
    round_trip(mover, tmp_path / "m.thaw")
    return tmp_path / "m.thaw"


@pytest.fixture
def target(mover: Mover, warm: Path) -> dict[str, torch.Tensor]:
    with thaw.open(warm) as snapshot:
        return {
            name: torch.zeros(spec.shape, dtype=spec.dtype, device=mover.device)
            for name, spec in snapshot.tensors.items()
        }


@pytest.mark.alone
def test_a_full_device(
    mover: Mover,
    warm: Path,
    target: dict[str, torch.Tensor],
    full_device: list[torch.Tensor],
) -> None:
    with pytest.raises((torch.OutOfMemoryError, thaw.BackendError), match=r"(?i)memory"):
        thaw.restore(warm, device=mover.device, backend=mover.name)
    try:
        # It may have room enough of its own, or say that it has not.
        thaw.restore(warm, into=target, backend=mover.name)
    except (torch.OutOfMemoryError, thaw.BackendError) as error:
        assert "memory" in str(error).lower()
    full_device.clear()
    torch.cuda.empty_cache()
    restored = thaw.restore(warm, device=mover.device, backend=mover.name)
    thaw.restore(warm, into=target, backend=mover.name)
    assert all(torch.equal(restored[name], tensor) for name, tensor in target.items())
