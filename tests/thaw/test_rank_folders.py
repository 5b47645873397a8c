"""A folder of several ranks is made beside its name, and replaces what has it when it is whole."""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from thaw_format import find_staged, staging_folder

import thaw
from thaw.vllm.ranks import destination

ONE, TWO, THREE = ("ab" * 16, "cd" * 16, "ef" * 16)


def freeze_rank(path: Path, rank: int, size: int, value: int, identity: str) -> thaw.FreezeReport:
    tensors = {"w": torch.full((4,), value), "rank": torch.tensor(rank)}
    shard = thaw.Shard(rank, size, tp=thaw.RankOf(rank, size))
    return thaw.freeze(tensors, path, shard=shard, snapshot_id=identity)


def freeze_all(path: Path, size: int, value: int, identity: str) -> None:
    for rank in range(size):
        freeze_rank(path, rank, size, value, identity)


def values_in(path: Path) -> list[int]:
    found, snapshots = [], thaw.open_ranks(path)
    assert thaw.verify(path).ranks == len(snapshots)
    for rank, each in enumerate(snapshots):
        restored = thaw.restore(each)
        assert int(restored["rank"]) == rank
        found.append(int(restored["w"][0]))
        each.close()
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def files_of(size: int) -> list[str]:
    return [*(f"rank-{rank:05d}-of-{size:05d}.thaw" for rank in range(size)), "snapshot.json"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.thaw"


@pytest.fixture(params=["exchange", "unsupported", "missing"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    if request.param != "exchange":
        value = None if request.param == "missing" else refuse
        monkeypatch.setattr("thaw_format.staging._renameat2", value)
    yield request.param


def test_nothing_has_the_name_before_it_is_sealed(path: Path) -> None:
    freeze_all(path, 2, 1, ONE)
    assert names_in(path.parent) == [staging_folder(path, ONE).name]
    thaw.finish_ranks(path)
    assert values_in(path) == [1, 1]
    assert names_in(path.parent) == [path.name]
    assert names_in(path) == files_of(2)


@pytest.mark.parametrize("size", [2, 3])
def test_an_old_one_is_whole_until_it_is_replaced(path: Path, size: int, exchange: str) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    for rank in range(size):
        freeze_rank(path, rank, size, 2, TWO)
        assert values_in(path) == [1, 1]
    with thaw.open(path, rank=0) as before:
        thaw.finish_ranks(path)
        assert int(thaw.restore(before)["w"][0]) == 1
    assert values_in(path) == [2] * size
    assert names_in(path) == files_of(size)
    assert names_in(path.parent) == [path.name]


def test_a_file_is_replaced_by_a_folder(path: Path, exchange: str) -> None:
    thaw.freeze({"w": torch.ones(1)}, path)
    path.chmod(0o640)
    freeze_all(path, 2, 2, ONE)
    assert path.is_file()
    thaw.finish_ranks(path)
    assert values_in(path) == [2, 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert names_in(path.parent) == [path.name]


def test_a_link_is_replaced_and_its_folder_stays(path: Path, exchange: str) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    freeze_all(path, 2, 2, TWO)
    thaw.finish_ranks(path)
    assert not path.is_symlink()
    assert (values_in(path), values_in(path.with_name("real"))) == ([2, 2], [1, 1])


def test_what_is_no_snapshot_is_not_replaced(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"'thesis\.tex', which is no part of a snapshot"):
        freeze_rank(path, 0, 2, 1, ONE)
    (path / "thesis.tex").rename(path.with_name("thesis.tex"))
    freeze_all(path, 2, 1, ONE)
    path.with_name("thesis.tex").rename(path / "thesis.tex")
    with pytest.raises(FileExistsError):
        thaw.finish_ranks(path)
    assert names_in(path) == ["thesis.tex"]


@pytest.mark.parametrize("identity", [ONE, TWO])
def test_leftovers_of_another_size_do_not_count(
    path: Path, identity: str, caplog: pytest.LogCaptureFixture
) -> None:
    for rank in (0, 2):
        freeze_rank(path, rank, 4, 9, ONE)
    freeze_all(path, 2, 2, identity)
    thaw.finish_ranks(path)
    assert values_in(path) == [2, 2]
    assert names_in(path) == files_of(2)
    assert ("an unfinished freeze left it" in caplog.text) == (identity == TWO)


def test_leftovers_in_a_folder_do_not_count_where_ranks_were_brought_together(path: Path) -> None:
    freeze_all(path, 2, 1, ONE)
    freeze_rank(path, 3, 4, 9, TWO)
    path.mkdir()
    for staged in find_staged(path).values():
        for file in staged.iterdir():
            file.rename(path / file.name)
        staged.rmdir()
    thaw.finish_ranks(path)
    assert values_in(path) == [1, 1]


def test_an_unfinished_folder_of_that_name_is_replaced(path: Path) -> None:
    path.mkdir()
    (path / files_of(4)[1]).write_bytes(b"left")
    (path / ".rank-00000-of-00004.thaw.0123abcd.partial").write_bytes(b"left")
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    assert names_in(path) == files_of(2)


def test_a_rank_that_is_missing(path: Path) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    freeze_rank(path, 1, 2, 2, TWO)
    with pytest.raises(thaw.FormatError, match="is not rank 0 of 1"):
        thaw.finish_ranks(path)
    assert values_in(path) == [1, 1]
    freeze_rank(path, 0, 2, 2, TWO)
    thaw.finish_ranks(path)
    assert values_in(path) == [2, 2]


def test_several_that_wait(path: Path) -> None:
    for number, identity in enumerate((ONE, TWO, THREE)):
        freeze_all(path, 2, number, identity)
    with pytest.raises(thaw.ThawError, match="3 snapshots wait for the name"):
        thaw.finish_ranks(path)
    thaw.finish_ranks(path, snapshot_id=TWO.upper())
    assert values_in(path) == [1, 1]
    assert set(find_staged(path)) == {ONE, THREE}


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_modes_are_kept(path: Path, mode: int) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    path.chmod(mode)
    for each in path.iterdir():
        each.chmod(0o600)
    freeze_all(path, 3, 2, TWO)
    assert stat.S_IMODE(staging_folder(path, TWO).stat().st_mode) == 0o700
    thaw.finish_ranks(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {0o600}


def test_a_rename_that_fails_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    freeze_all(path, 2, 2, TWO)
    rename, calls = os.rename, []

    def fail_second(source: Path, target: Path) -> None:
        if ".rank" not in str(source) and "snapshot.json" not in str(target):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr("thaw_format.staging._renameat2", None)
    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="Input/output"):
        thaw.finish_ranks(path)
    monkeypatch.undo()
    assert values_in(path) == [1, 1]
    thaw.finish_ranks(path)
    assert values_in(path) == [2, 2]
    assert names_in(path.parent) == [path.name]


def test_a_mount_that_does_not_rename_folders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze_all(path, 2, 1, ONE)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="does not rename"):
        thaw.finish_ranks(path)


def test_the_folder_that_holds_the_name_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze_all(path, 2, 1, ONE)
    synced, fsync = [], os.fsync

    def record(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    thaw.finish_ranks(path)
    assert synced[-1] == (str(path.parent), True)


def test_an_engine_that_fails_to_freeze_leaves_nothing(path: Path) -> None:
    freeze_all(path, 2, 1, ONE)
    thaw.finish_ranks(path)
    with pytest.raises(KeyError), destination(path, 2, TWO) as where:
        assert where == str(path)
        freeze_rank(Path(where), 0, 2, 2, TWO)
        raise KeyError("rank 1")
    assert values_in(path) == [1, 1]
    assert names_in(path.parent) == [path.name]


def test_an_engine_freezes_over_a_snapshot_and_over_nothing_else(path: Path) -> None:
    for value, identity in enumerate((ONE, TWO)):
        with destination(path, 2, identity) as where:
            freeze_all(Path(where), 2, value, identity)
            thaw.finish_ranks(where, snapshot_id=identity)
        assert values_in(path) == [value, value]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError), destination(path, 2, THREE):
        pass
    with pytest.raises(thaw.ThawError, match="ends like"), destination("x.safetensors", 1, ONE):
        pass
    assert (path / "notes.txt").exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_had_the_name_goes_while_it_is_replaced(
    path: Path, is_folder: bool, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def going(place: Path) -> bool:
        found = lexists(place)
        if place == path:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        return found

    if is_folder:
        freeze_all(path, 2, 1, ONE)
        thaw.finish_ranks(path)
    else:
        thaw.freeze({"w": torch.ones(1)}, path)
    freeze_all(path, 2, 2, TWO)
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", going)
    thaw.finish_ranks(path, snapshot_id=TWO)
    monkeypatch.undo()
    assert values_in(path) == [2, 2]
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("is_folder", [False, True])
def test_something_else_gets_the_name_while_a_folder_does(
    path: Path, is_folder: bool, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coming(place: Path) -> bool:
        found = lexists(place)
        if place == path and not found:
            if is_folder:
                (path.parent / "other").rename(path)
            else:
                path.write_bytes(b"other")
        return found

    freeze_all(path.parent / "other", 2, 1, ONE)
    thaw.finish_ranks(path.parent / "other")
    freeze_all(path, 2, 2, TWO)
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", coming)
    thaw.finish_ranks(path, snapshot_id=TWO)
    monkeypatch.undo()
    assert values_in(path) == [2, 2]
    shutil.rmtree(path.parent / "other", ignore_errors=True)
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_had_the_name_goes_while_its_mode_is_taken(
    path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def going(place: Path) -> bool:
        found = exists(place)
        if place == path:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        return found

    if ranks > 1:
        freeze_all(path, 2, 1, ONE)
        thaw.finish_ranks(path)
    else:
        thaw.freeze({"w": torch.ones(1)}, path)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", going)
    freeze_all(path, 2, 2, TWO) if ranks > 1 else thaw.freeze({"w": torch.zeros(1)}, path)
    if ranks > 1:
        thaw.finish_ranks(path, snapshot_id=TWO)
    monkeypatch.undo()
    assert thaw.verify(path).ranks == ranks
    assert names_in(path.parent) == [path.name]
