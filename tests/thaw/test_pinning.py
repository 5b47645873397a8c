"""Pinned snapshots: refused without a GPU, exact with one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import thaw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.thaw"
    thaw.freeze({f"t{i}": torch.arange(i * 70_000) + i for i in range(9)}, path)
    return path


def test_without_a_device_it_is_a_clear_error(path: Path) -> None:
    with pytest.raises(thaw.UnavailableBackendError, match="CUDA"):
        thaw.pin(path, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(thaw.UnavailableBackendError, match="CUDA"):
            thaw.pin(path)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_restores_again_and_again(path: Path, backend: str) -> None:
    expected = thaw.restore(path, backend="reference")
    with thaw.pin(path) as pinned:
        assert pinned.nbytes == path.stat().st_size
        for _ in range(3):
            restored = pinned.restore(device="cuda", backend=backend)
            assert all(torch.equal(restored[name].cpu(), expected[name]) for name in expected)
            assert restored.report.chunks_checked > 0
        into = {name: torch.zeros_like(tensor).cuda() for name, tensor in expected.items()}
        pinned.restore(into=into, backend=backend)
        assert all(torch.equal(into[name].cpu(), expected[name]) for name in expected)
    with pytest.raises(ValueError, match="closed"):
        pinned.restore(device="cuda")
    pinned.close()


@pytest.mark.gpu
@needs_gpu
def test_a_change_of_the_file_is_found(path: Path) -> None:
    before = path.stat()
    with thaw.pin(path) as pinned:
        with path.open("r+b") as file:
            file.seek(-5000, os.SEEK_END)
            file.write(b"changed")
        with pytest.raises(thaw.MismatchError, match="was written to"):
            pinned.restore()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(thaw.ChecksumError):
            pinned.restore()


@pytest.mark.gpu
@needs_gpu
def test_a_truncated_file_does_not_end_the_process(path: Path) -> None:
    expected = thaw.restore(path, backend="reference")
    with thaw.pin(path) as pinned, pinned.in_use() as snapshot:
        os.truncate(path, 100_000)
        # The pages are locked, but a gap between tensors is read from the file.
        with suppress(thaw.ThawError):
            restored = thaw.restore(snapshot, device="cuda")
            assert all(torch.equal(restored[name].cpu(), expected[name]) for name in expected)
