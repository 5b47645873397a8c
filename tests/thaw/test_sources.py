"""Sources: what is read is what the file holds, whatever a read returns at once."""

import fcntl
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from thaw_format import FileSource
from thaw_format.checksum import host_buffer

import thaw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "file"


def test_a_short_read_is_not_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, at: pread(fd, min(nbytes, 700), at))
    source = FileSource(path)
    assert source.read(0, 10_240) == path.read_bytes()
    assert source.read(5, 3000) == path.read_bytes()[5:3005]
    assert source.read(10_000, 3000) == path.read_bytes()[10_000:]
    assert source.read(20_000, 3) == b""
    source.close()


def test_files_that_are_read_in_short_reads_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {f"tensor.{number}": torch.arange(5) + number for number in range(100)}
    thaw.freeze(tensors, tmp_path / "m.thaw")
    save_file(tensors, tmp_path / "m.safetensors")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, at: pread(fd, min(nbytes, 1000), at))
    for name in ("m.thaw", "m.safetensors"):
        restored = thaw.restore(tmp_path / name, backend="reference")
        assert {n: t.tolist() for n, t in restored.items()} == {
            n: t.tolist() for n, t in tensors.items()
        }


def test_a_file_that_is_cut_while_it_is_read_ends(path: Path) -> None:
    source = FileSource(path)
    os.truncate(path, 100)
    assert source.read(0, 10_240) == path.read_bytes()
    source.close()


def test_a_closed_source_reads_no_other_file(path: Path) -> None:
    source = FileSource(path)
    source.close()
    source.close()
    # The number of the descriptor is given away again.
    with open(os.devnull, "rb") as other:
        source.close()
        memory = torch.empty(4, dtype=torch.uint8)
        for use in (
            source.fileno,
            lambda: source.read(0, 4),
            lambda: source.read_into(0, [host_buffer(memory)]),
        ):
            with pytest.raises(ValueError, match="file was closed; open it again"):
                use()
        other.read()


def test_a_closed_snapshot_is_not_restored(tmp_path: Path) -> None:
    thaw.freeze({"w": torch.ones(3)}, tmp_path / "m.thaw")
    snapshot = thaw.open(tmp_path / "m.thaw")
    snapshot.close()
    snapshot.close()
    for backend in ("reference", "auto"):
        with pytest.raises(ValueError, match=r"m\.thaw was closed"):
            thaw.restore(snapshot, backend=backend)


def test_reading_is_not_use(tmp_path: Path) -> None:
    path = tmp_path / "m.thaw"
    thaw.freeze({"w": torch.arange(5)}, path)
    os.utime(path, ns=(10**18, 2 * 10**18))
    thaw.verify(path)
    thaw.restore(path, backend="reference")
    assert path.stat().st_atime_ns == 10**18


def test_a_file_whose_access_time_may_not_be_left_alone_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL:
            raise PermissionError(1, "Operation not permitted")
        return 0

    monkeypatch.setattr("thaw_format.source.fcntl.fcntl", refuse)
    source = FileSource(path)
    assert source.read(0, source.nbytes) == path.read_bytes()
    source.close()
