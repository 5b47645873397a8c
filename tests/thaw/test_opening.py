"""Paths that are no snapshots get one line that says what they are."""

import os
import socket
import zipfile
from pathlib import Path

import pytest
import torch

import thaw

HEADS = {
    "gguf": (b"GGUF\x03\0\0\0" + bytes(60), "GGUF"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(60), "NumPy"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "text": (b"hello, world", "68 65 6c"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "gzip"),
}


@pytest.mark.parametrize("suffix", ["", ".thaw"])
@pytest.mark.parametrize("name", HEADS)
def test_files_of_other_formats(tmp_path: Path, name: str, suffix: str) -> None:
    head, what = HEADS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(head)
    with pytest.raises(thaw.FormatError, match=what) as caught:
        thaw.open(path)
    assert "\n" not in str(caught.value)


def test_the_other_project(tmp_path: Path) -> None:
    path = tmp_path / "x.thaw"
    path.write_bytes(b"THAW" + bytes(8192))
    with pytest.raises(thaw.MagicError, match="another project") as caught:
        thaw.restore(path)
    assert caught.value.code == "foreign-magic"


def test_torch_save_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(thaw.FormatError, match=r"torch\.save"):
        thaw.open(tmp_path / "model.pt")


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "x.thaw").touch()
    with pytest.raises(thaw.FormatError, match="empty"):
        thaw.open(tmp_path / "x")
    with pytest.raises(thaw.TruncatedError, match="an empty file"):
        thaw.open(tmp_path / "x.thaw")


def test_pipes_sockets_folders_and_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.thaw")
    with pytest.raises(thaw.FormatError, match="is a pipe"):
        thaw.open(tmp_path / "pipe.thaw")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device"):
            thaw.open(tmp_path / "socket")
    (tmp_path / "folder").mkdir()
    with pytest.raises(thaw.FormatError, match="holds no snapshot"):
        thaw.open(tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        thaw.open(tmp_path / "nothing.thaw")
    with pytest.raises(thaw.FormatError, match="character device"):
        thaw.open("/dev/zero")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 4095, 4096, 5000, -4097, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.thaw"
    thaw.freeze({"a": torch.arange(5000)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    target = {"a": torch.zeros(5000, dtype=torch.int64)}
    with pytest.raises(thaw.TruncatedError):
        thaw.restore(path, into=target)
    assert not target["a"].any()
