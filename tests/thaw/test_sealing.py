"""What a new file does to the one of its name: links, modes, mounts, several writers."""

import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from thaw_format import sealed, write_file

import thaw

ONES = {"w": torch.ones(2)}
ZEROS = {"w": torch.zeros(2)}

ACL, NOBODY = "system.posix_acl_access", 0xFFFFFFFF

Writer = Callable[[Path], object]


def _to_thaw(path: Path) -> object:
    return thaw.freeze(ONES, path)


def _to_safetensors(path: Path) -> object:
    thaw.freeze(ONES, path.with_name("source.thaw"))
    try:
        return thaw.convert(path.with_name("source.thaw"), path, format="safetensors")
    finally:
        path.with_name("source.thaw").unlink()


@pytest.fixture(params=["m.thaw", "m.safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    save_file(ZEROS, path)
    if path.suffix == ".thaw":
        thaw.freeze(ZEROS, path)
    return path


@pytest.fixture
def write(path: Path) -> Writer:
    return _to_thaw if path.suffix == ".thaw" else _to_safetensors


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def value_in(path: Path) -> float:
    return float(thaw.restore(path)["w"][0])


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_is_replaced(path: Path, write: Writer, absolute: bool) -> None:
    blob = path.parent / "blobs" / "0123abcd"
    blob.parent.mkdir()
    path.rename(blob)
    path.symlink_to(blob if absolute else os.path.join("blobs", blob.name))
    write(path)
    assert not path.is_symlink()
    assert (value_in(path), value_in(blob)) == (1, 0)
    assert sorted(each.name for each in path.parent.iterdir()) == ["blobs", path.name]


def test_a_link_that_leads_nowhere_or_in_circles_is_replaced(path: Path, write: Writer) -> None:
    for target in ("nowhere", path.name):
        path.unlink()
        path.symlink_to(target)
        write(path)
        assert not path.is_symlink()
        assert value_in(path) == 1


def test_links_in_the_folder_s_path_are_followed(path: Path, write: Writer) -> None:
    (path.parent / "real").mkdir()
    (path.parent / "link").symlink_to("real")
    write(path.parent / "link" / path.name)
    assert (path.parent / "link").is_symlink()
    assert value_in(path.parent / "real" / path.name) == 1


def test_a_link_to_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.thaw").symlink_to("folder")
    with pytest.raises(IsADirectoryError):
        thaw.freeze(ONES, tmp_path / "m.thaw")
    assert (tmp_path / "m.thaw").is_symlink()


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
def test_a_link_to_an_open_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    thaw.freeze(ONES, tmp_path / "a.thaw")
    (tmp_path / "link").symlink_to("/dev/stdout")
    before = [os.readlink(each) for each in ("/dev/stdout", "/dev/fd", tmp_path / "link")]
    command = [sys.executable, "-m", "thaw", "freeze", "a.thaw", "-o", name]
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "is a link to an open file" in done.stderr
    assert [os.readlink(each) for each in ("/dev/stdout", "/dev/fd", tmp_path / "link")] == before


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o400, 0o755])
def test_a_file_replaced_keeps_its_mode(path: Path, write: Writer, mode: int) -> None:
    path.chmod(mode)
    write(path)
    assert mode_of(path) == mode
    assert value_in(path) == 1


def test_a_link_replaced_gives_the_mode_of_what_it_led_to(path: Path, write: Writer) -> None:
    path.rename(path.with_name("blob"))
    path.with_name("blob").chmod(0o600)
    path.symlink_to("blob")
    write(path)
    assert mode_of(path) == 0o600


def test_a_file_is_never_more_readable_than_the_one_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"old")
    for mode in (0o600, 0o640, 0o400, 0o604):
        (tmp_path / "m").chmod(mode)
        with sealed(tmp_path / "m") as target:
            (partial,) = set(tmp_path.iterdir()) - {tmp_path / "m"}
            os.write(target.fileno(), b"new")
            assert mode_of(partial) & 0o444 & ~mode == 0
        assert mode_of(tmp_path / "m") == mode


def test_a_new_file_has_the_mode_of_any_new_file(path: Path, write: Writer, umask: int) -> None:
    path.unlink()
    write(path)
    assert mode_of(path) == 0o666 & ~umask
    write_file(path.with_name("small"), b"x")
    assert mode_of(path.with_name("small")) == 0o666 & ~umask


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_file_replaced_keeps_its_owner(path: Path, write: Writer) -> None:
    os.chown(path, 4321, 1234)
    path.chmod(0o640)
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4321, 1234, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL])
def test_a_group_that_cannot_be_had_gets_no_more_than_others(
    path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    os.chown(path, -1, 1234)
    path.chmod(0o664)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fchown", refuse)
    write(path)
    assert mode_of(path) == 0o644


def test_a_file_system_without_modes(
    path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path.chmod(0o600)
    monkeypatch.setattr(os, "fchmod", refuse)
    write(path)
    assert value_in(path) == 1


def test_an_access_list_is_kept(path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = ((1, 6, NOBODY), (2, 4, 4321), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
    access = b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, ACL, access)
    except OSError:
        pytest.skip("this file system has no access lists")
    assert mode_of(path) == 0o640
    write(path)
    assert os.getxattr(path, ACL) == access

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "setxattr", refuse)
    write(path)
    assert mode_of(path) == 0o600


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSYS, "does not rename"),
        (errno.EOPNOTSUPP, "does not rename"),
        (errno.EXDEV, "does not rename"),
        (errno.EBUSY, "mounted by itself"),
    ],
)
def test_a_mount_that_does_not_rename(
    path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    rename = os.rename

    def refuse(source: object, destination: object) -> None:
        if str(destination).endswith(".thaw") and path.suffix != ".thaw":
            return rename(source, destination)  # type: ignore[arg-type]
        raise OSError(code, os.strerror(code), str(source), None, str(destination))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match=words) as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert "write to another place" in str(caught.value)
    monkeypatch.undo()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert value_in(path) == 0


def test_two_writers_of_one_name_do_not_disturb_each_other(path: Path) -> None:
    with sealed(path) as one:
        os.pwrite(one.fileno(), b"one", 0)
        with sealed(path) as two:
            os.pwrite(two.fileno(), b"two", 0)
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_restoring_into_the_cache_of_the_hub_leaves_its_blobs(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    save_file(ZEROS, blob)
    for revision in ("one", "two"):
        (tmp_path / "snapshots" / revision).mkdir(parents=True)
        (tmp_path / "snapshots" / revision / "model.safetensors").symlink_to(
            f"../../blobs/{blob.name}"
        )
    thaw.freeze(ONES, tmp_path / "m.thaw")
    thaw.convert(tmp_path / "m.thaw", tmp_path / "snapshots" / "one", format="safetensors")
    found = [
        load_file(tmp_path / "snapshots" / each / "model.safetensors")["w"].tolist()
        for each in ("one", "two")
    ]
    assert found == [[1, 1], [0, 0]]
    assert load_file(blob)["w"].tolist() == [0, 0]
