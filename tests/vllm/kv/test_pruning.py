"""Sessions are removed oldest use first, whole, and nothing else is."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_sessions import age, freeze, session
from thaw_format import sealed

import thaw
from thaw.vllm.kv import removing
from thaw.vllm.kv.folder import Entry, Folder


def names(entries: tuple[Entry, ...]) -> list[str]:
    return [each.name for each in entries]


def hidden(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.startswith("."))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Make four sessions, used in the order d, b, a, c, and frozen in another one."""
    used = {"a": 200, "b": 300, "c": 100, "d": 400}
    for number, (name, seconds) in enumerate(used.items()):
        path = freeze(tmp_path / f"{name}.thaw", ranks=2 if name in "bc" else 1)
        age(path, frozen_s=1000 - 10 * number, used_s=seconds)
    return Folder(tmp_path)


def nbytes(folder: Folder, kept: str) -> int:
    return sum(each.nbytes for each in folder.scan() if each.name in kept)


@pytest.mark.parametrize(
    ("left", "removed"),
    [("abcd", []), ("abc", ["d"]), ("ac", ["d", "b"]), ("c", ["d", "b", "a"]), ("", [*"dbac"])],
)
def test_oldest_use_first(folder: Folder, left: str, removed: list[str]) -> None:
    limit = nbytes(folder, left)
    assert names(folder.excess(limit)) == removed
    assert len(folder.scan()) == 4
    found = folder.prune(limit)
    assert names(found) == removed
    assert names(folder.scan()) == sorted(left)
    assert sorted(each.name for each in folder.path.iterdir()) == [f"{n}.thaw" for n in left]
    assert folder.prune(limit) == ()


def test_one_byte_less_is_one_session_less(folder: Folder) -> None:
    assert names(folder.prune(nbytes(folder, "abc") - 1)) == ["d", "b"]


def test_a_use_that_is_marked_counts(folder: Folder) -> None:
    oldest = next(each for each in folder.scan() if each.name == "d")
    folder.touch(oldest)
    assert names(folder.prune(nbytes(folder, "acd"))) == ["b"]


def test_what_is_kept_stays(folder: Folder) -> None:
    limit = nbytes(folder, "ac")
    assert names(folder.excess(limit, keep={"d"})) == ["b", "a"]
    assert names(folder.prune(limit, keep={"d"})) == ["b", "a"]
    assert names(folder.prune(0, keep=["c", "d"])) == []
    assert names(folder.scan()) == ["c", "d"]


def test_what_is_no_session_stays_and_does_not_count(folder: Folder) -> None:
    thaw.freeze({"w": torch.zeros(1 << 16)}, folder.path / "weights.thaw")
    (folder.path / "damaged.thaw").write_bytes(b"x" * 9999)
    (folder.path / "notes.txt").write_text("years of work")
    (folder.path / "thesis.thaw").mkdir()
    (folder.path / "thesis.thaw" / "thesis.tex").write_text("years of work")
    for each in folder.path.iterdir():
        os.utime(each, (1, 1))
    assert folder.prune(nbytes(folder, "abcd")) == ()
    assert len(folder.prune(0)) == 4
    left = {"damaged.thaw", "notes.txt", "thesis.thaw", "weights.thaw"}
    assert {each.name for each in folder.path.iterdir()} == left
    assert thaw.verify(folder.path / "weights.thaw").tensors == 1


def test_what_others_have_open_they_go_on_to_read(folder: Folder) -> None:
    opened = [each for name in "ab" for each in thaw.open_ranks(folder.path / f"{name}.thaw")]
    before = [bytes(each.sources[0].read(0, 1 << 20)) for each in opened]
    assert len(folder.prune(0)) == 4
    assert [bytes(each.sources[0].read(0, 1 << 20)) for each in opened] == before
    assert [thaw.restore(each, backend="reference").report.tensors for each in opened] == [2] * 3
    for each in opened:
        each.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert Folder(tmp_path / "none").prune(0) == ()


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_was_replaced_since_is_not_removed(
    folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.path / f"{name}.thaw"
    find, replaced = removing.find, []

    def replacing(place: Path) -> object:
        if place == path and not replaced:
            replaced.append(freeze(path, session(first=1000), ranks=2 if name == "b" else 1))
        return find(place)

    monkeypatch.setattr(removing, "find", replacing)
    assert name not in names(folder.prune(0))
    assert names(folder.scan()) == [name]
    assert hidden(folder.path) == []


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("later", [False, True])
def test_what_is_replaced_at_the_last_moment_gets_its_name_again(
    folder: Folder, name: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ranks = folder.path / f"{name}.thaw", 2 if name == "b" else 1
    rename, done = os.rename, []

    def replacing(source: Path, target: Path) -> None:
        if source == path and not done:
            done.append(freeze(path, session(first=1000), ranks=ranks))
            rename(source, target)
            if later:
                freeze(path, session(first=2000), ranks=ranks)
        else:
            rename(source, target)

    monkeypatch.setattr(os, "rename", replacing)
    assert name not in names(folder.prune(0))
    (entry,) = folder.scan()
    first = 2000 if later else 1000
    assert entry.sessions[0].token_ids == session(first=first).token_ids
    assert thaw.verify(path).ranks == ranks
    assert hidden(folder.path) == []


def test_one_that_another_process_removed_counts_as_gone(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = removing.find

    def removed(place: Path) -> object:
        (folder.path / "d.thaw").unlink(missing_ok=True)
        return find(place)

    limit = nbytes(folder, "ac")
    monkeypatch.setattr(removing, "find", removed)
    assert names(folder.prune(limit)) == ["b"]
    assert names(folder.scan()) == ["a", "c"]


def test_one_that_may_not_be_removed_stands_in_no_other_s_way(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == "d.thaw":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert names(folder.prune(nbytes(folder, "cd"))) == ["b", "a"]
    with pytest.raises(PermissionError) as caught:
        folder.prune(0)
    assert caught.value.filename == str(folder.path / "d.thaw")
    assert names(folder.scan()) == ["d"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_process_that_ended_has_begun_to_remove_is_removed(
    tmp_path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(tmp_path / "a.thaw", ranks=ranks)
    with monkeypatch.context() as patched:
        patched.setattr(removing, "_delete", lambda _: None)
        assert len(Folder(tmp_path).prune(0)) == 1
    assert len(hidden(tmp_path)) == 1
    assert Folder(tmp_path).scan() == ()
    Folder(tmp_path).prune(0)
    assert len(hidden(tmp_path)) == 1
    now = time.time()
    monkeypatch.setattr("thaw.vllm.kv.removing.time.time", lambda: now + 3600)
    Folder(tmp_path).prune(0)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path: Path, ranks: int) -> None:
    target = freeze(tmp_path / "target.thaw", ranks=ranks)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.thaw").symlink_to("../target.thaw")
    assert names(Folder(tmp_path / "here").prune(0)) == ["a"]
    assert list((tmp_path / "here").iterdir()) == []
    assert thaw.verify(target).ranks == ranks


def test_names_may_be_as_long_as_they_can(tmp_path: Path) -> None:
    freeze(tmp_path / ("x" * 250 + ".thaw"))
    freeze(tmp_path / ("漢" * 83 + ".thaw"), ranks=2)
    assert len(Folder(tmp_path).prune(0)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ranks_goes_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    rmtree: Callable[..., None] = shutil.rmtree

    def watching(path: Path, **more: bool) -> None:
        seen.append(os.path.lexists(tmp_path / "a.thaw"))
        assert len(list(Path(path).iterdir())) == 3
        rmtree(path, **more)

    freeze(tmp_path / "a.thaw", ranks=2)
    monkeypatch.setattr(shutil, "rmtree", watching)
    Folder(tmp_path).prune(0)
    assert seen == [False]


def test_what_killed_freezes_left_is_removed_and_what_living_ones_write_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".a.thaw.0123abcd.partial").write_bytes(b"left")
    (tmp_path / ".notes.partial").write_bytes(b"no file of ours")
    shard = thaw.Shard(0, 2)
    thaw.freeze({"w": torch.ones(1)}, tmp_path / "b.thaw", shard=shard, snapshot_id="ab" * 16)
    staged = f".b.thaw.{'ab' * 16}.partial"
    with sealed(tmp_path / "c.thaw") as target:
        Folder(tmp_path).prune(0)
        (living,) = set(hidden(tmp_path)) - {".notes.partial", staged}
        assert living.startswith(".c.thaw.")
        assert os.fstat(target.fileno()).st_nlink == 1
    assert (tmp_path / staged).is_dir()
    now = time.time()
    monkeypatch.setattr("thaw.vllm.kv.removing.time.time", lambda: now + 80_000)
    Folder(tmp_path).prune(0)
    assert (tmp_path / staged).is_dir()
    monkeypatch.setattr("thaw.vllm.kv.removing.time.time", lambda: now + 90_000)
    Folder(tmp_path).prune(0)
    assert hidden(tmp_path) == [".notes.partial"]
