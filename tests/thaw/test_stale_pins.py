"""What is pinned is served only while its path names it; the driver's part is made up here."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import thaw
from thaw.restoring import pinning
from thaw.vllm.agent import Agent
from thaw.vllm.worker import thaw as ask

PARALLEL = SimpleNamespace(
    tensor_parallel_size=1,
    pipeline_parallel_size=1,
    data_parallel_size=1,
    enable_expert_parallel=False,
)
WORKER_CONFIG = SimpleNamespace(lora_config=None, kv_transfer_config=None, parallel_config=PARALLEL)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Let there be a device, whose driver takes every page; give the addresses that are locked."""
    locked: set[int] = set()
    cudart = SimpleNamespace(
        cudaHostRegister=lambda address, nbytes, flags: locked.add(address) or 0,
        cudaHostUnregister=locked.remove,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    yield locked
    assert not locked


def tensors(value: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((5000,), value), "b": torch.tensor([value])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.thaw"
    thaw.freeze(tensors(1), path)
    return path


def restored_value(pinned: thaw.PinnedSnapshot) -> int:
    into = tensors(0)
    pinned.restore(into=into, backend="reference")
    assert torch.equal(into["a"], torch.full((5000,), int(into["b"])))
    return int(into["b"])


def rewrite_in_place(path: Path) -> None:
    thaw.freeze(tensors(2), path.with_name("other.thaw"))
    path.write_bytes(path.with_name("other.thaw").read_bytes())


def rewrite_header_in_place(path: Path) -> None:
    """Change the header alone, and leave the time of modification as it was."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(3000)
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def point_elsewhere(path: Path) -> None:
    thaw.freeze(tensors(2), path.with_name("other.thaw"))
    path.unlink()
    path.symlink_to("other.thaw")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "frozen again": (lambda path: thaw.freeze(tensors(2), path), "replaced by another file"),
    "a copy": (lambda path: (shutil.copy2(path, f"{path}~"), os.replace(f"{path}~", path)), "repl"),
    "a link": (point_elsewhere, "replaced by another file"),
    "in place": (rewrite_in_place, "was written to"),
    "its header": (rewrite_header_in_place, "was written to"),
    "shorter": (lambda path: os.truncate(path, 9000), "was written to"),
    "gone": (Path.unlink, "is gone"),
    "renamed": (lambda path: path.rename(path.with_name("other.thaw")), "is gone"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_path_that_names_something_else_is_an_error(path: Path, name: str) -> None:
    change, message = CHANGES[name]
    with thaw.pin(path) as pinned:
        assert restored_value(pinned) == 1
        change(path)
        with pytest.raises(thaw.MismatchError, match=rf"m\.thaw: .*{message}.*pin it again"):
            restored_value(pinned)


def test_pinned_again_it_is_the_new_one(path: Path) -> None:
    with thaw.pin(path):
        thaw.freeze(tensors(2), path)
        with thaw.pin(path) as again:
            assert restored_value(again) == 2


def test_a_path_is_the_one_that_was_meant(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with thaw.pin("m.thaw") as pinned:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert restored_value(pinned) == 1


def test_a_snapshot_that_was_opened_before_its_file_was_replaced_is_not_pinned(path: Path) -> None:
    snapshot = thaw.open(path)
    thaw.freeze(tensors(2), path)
    with pytest.raises(thaw.MismatchError, match="replaced"):
        thaw.pin(snapshot)


def test_a_checkpoint_that_gets_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    with thaw.pin(folder) as pinned:
        (folder / "notes.txt").write_text("of no account")
        pinned.restore(into={"a": torch.zeros(3)}, backend="reference")
        (folder / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(thaw.MismatchError, match=r"index\.json: was added"):
            pinned.restore(into={"a": torch.zeros(3)}, backend="reference")


def test_a_set_of_ranks_that_is_frozen_again(tmp_path: Path) -> None:
    def freeze(folder: Path, value: int) -> None:
        for rank in range(2):
            shard = thaw.Shard(rank, 2)
            thaw.freeze(tensors(value), folder, shard=shard, snapshot_id=f"{value:032x}")
        thaw.finish_ranks(folder)

    freeze(tmp_path / "m", 1)
    with thaw.pin(tmp_path / "m", rank=1) as pinned:
        assert restored_value(pinned) == 1
        freeze(tmp_path / "other", 2)
        shutil.rmtree(tmp_path / "m")
        (tmp_path / "other").rename(tmp_path / "m")
        with pytest.raises(thaw.MismatchError, match="replaced by another file"):
            restored_value(pinned)


def test_nothing_of_it_is_used_after_closing(path: Path) -> None:
    pinned = thaw.pin(path)
    snapshot = pinned.snapshot
    (source,) = snapshot.sources
    assert source.locked_address() > 0  # type: ignore[attr-defined]
    pinned.close()
    with pytest.raises(ValueError, match="closed"):
        _ = pinned.snapshot
    with pytest.raises(ValueError, match="not pinned any more"):
        _ = source.locked_address()  # type: ignore[attr-defined]


def test_backends_refuse_a_source_that_was_released(path: Path) -> None:
    backend = pytest.importorskip("thaw_native.backend")
    pinned = thaw.pin(path)
    (source,) = pinned.snapshot.sources
    assert backend._pinned(source) == source.locked_address()  # type: ignore[attr-defined]
    pinned.close()
    with pytest.raises(ValueError, match="not pinned any more"):
        backend._pinned(source)


def test_new_tensors_go_to_the_device_that_was_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pinning, "restore", lambda snapshot, **options: asked.append(options))
    with thaw.pin(path, device="cuda:3") as pinned, thaw.pin(path) as plain:
        pinned.restore()
        plain.restore()
        pinned.restore(device="cpu")
        pinned.restore(into={})
    assert [each["device"] for each in asked] == [
        torch.device("cuda:3"),
        torch.device("cuda:0"),
        "cpu",
        None,
    ]


@pytest.mark.parametrize("call", [thaw.pin, thaw.restore])
def test_a_snapshot_that_is_open_has_its_rank(path: Path, call: Callable[..., object]) -> None:
    with thaw.open(path) as snapshot, pytest.raises(TypeError, match="rank="):
        call(snapshot, rank=0)


def test_a_kernel_that_cannot_bring_pages_in_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: int, nbytes: int, advice: int) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    read: list[int] = []
    plainly = thaw_source().read_into

    def counted(self: Any, offset: int, buffers: Any) -> None:
        read.append(sum(map(len, buffers)))
        plainly(self, offset, buffers)

    monkeypatch.setattr(pinning, "_libc", SimpleNamespace(**vars_of(pinning._libc), madvise=refuse))
    monkeypatch.setattr(thaw_source(), "read_into", counted)
    with thaw.pin(path) as pinned:
        assert sum(read) == path.stat().st_size
        assert restored_value(pinned) == 1


def test_pages_that_cannot_be_read_are_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: int, nbytes: int, advice: int) -> int:
        ctypes.set_errno(errno.EFAULT)
        return -1

    monkeypatch.setattr(pinning, "_libc", SimpleNamespace(**vars_of(pinning._libc), madvise=refuse))
    with pytest.raises(thaw.BackendError, match="cannot be brought in: Bad address"):
        thaw.pin(path)


def thaw_source() -> Any:
    from thaw_format import FileSource

    return FileSource


def vars_of(library: Any) -> dict[str, Any]:
    return {"mmap": library.mmap, "munmap": library.munmap}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make a worker whose engine takes any snapshot."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return SimpleNamespace(rank=0, device="cuda:0", vllm_config=WORKER_CONFIG)


def test_a_worker_serves_no_file_that_was_replaced(path: Path, worker: SimpleNamespace) -> None:
    assert ask(worker, "pin", str(path))["nbytes"] == path.stat().st_size
    thaw.freeze(tensors(2), path)
    answer = ask(worker, "prepare", str(path), "reference")
    assert (answer["error"], "pin it again" in answer["message"]) == ("MismatchError", True)
    ask(worker, "pin", str(path))
    with Agent.of(worker).opened(str(path)) as snapshot, thaw.open(path) as found:
        assert snapshot.snapshot_id == found.snapshot_id
    ask(worker, "unpin", str(path))
    assert not Agent.of(worker).pinned
