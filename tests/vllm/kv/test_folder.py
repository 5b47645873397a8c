"""The sessions of a folder are listed as they are, whole, and at no cost where nothing changed."""

import builtins
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_sessions import age, freeze, session

import thaw
from thaw.vllm.kv import folder as module
from thaw.vllm.kv.folder import Entry, Folder


def names(folder: Folder) -> list[str]:
    return [each.name for each in folder.scan()]


def only(folder: Folder) -> Entry:
    (entry,) = folder.scan()
    return entry


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is opened below this process's Python."""
    noted: list[str] = []

    def noting(call: Callable[..., object]) -> Callable[..., object]:
        def note(path: object, *args: object, **more: object) -> object:
            noted.append(str(path))
            return call(path, *args, **more)

        return note

    monkeypatch.setattr(os, "open", noting(os.open))
    monkeypatch.setattr(builtins, "open", noting(builtins.open))
    return noted


def test_what_an_entry_says(tmp_path: Path) -> None:
    said = session(96, salt_sha256="cd" * 32)
    path = freeze(tmp_path / "alice.thaw", said)
    age(path, frozen_s=500, used_s=100)
    found = only(Folder(tmp_path))
    with thaw.open(path) as snapshot:
        assert found.snapshot_id == snapshot.snapshot_id
    assert (found.name, found.path, found.error) == ("alice", path, None)
    assert (found.nbytes, found.mtime) == (path.stat().st_size, path.stat().st_mtime)
    assert found.used == path.stat().st_atime > found.mtime
    assert found.sessions == (replace(said, hashes=replace(said.hashes, values=b"")),)
    assert found.sessions[0].tokens == 96


def test_a_session_of_several_ranks(tmp_path: Path) -> None:
    path = freeze(tmp_path / "bob.thaw", ranks=3)
    age(path, frozen_s=500, used_s=100)
    found = only(Folder(tmp_path))
    assert found.error is None
    assert len(found.sessions) == 3
    assert found.nbytes == sum(each.stat().st_size for each in path.iterdir())
    assert found.mtime == (path / "snapshot.json").stat().st_mtime
    assert found.used == (path / "snapshot.json").stat().st_atime
    first, *others = found.sessions
    assert all(each.token_ids is first.token_ids for each in others)
    with thaw.open(path, rank=1) as snapshot:
        assert found.snapshot_id == snapshot.snapshot_id


def test_what_many_sessions_say_alike_is_kept_once(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", session(96), ranks=2)
    freeze(tmp_path / "c.thaw", session(engine={"vllm": "0.32.0"}))
    one, two, other = Folder(tmp_path).scan()
    (first,) = one.sessions
    for each in two.sessions:
        assert each.engine is first.engine
        assert each.layers is first.layers
        assert each.groups[0].layers is first.groups[0].layers
    assert other.sessions[0].engine == {"vllm": "0.32.0"}
    assert other.sessions[0].layers is first.layers


@pytest.mark.parametrize(("one", "other"), [(1, True), (False, 0), ("1", 1), (None, "null")])
def test_what_is_almost_alike_is_told_apart(one: object, other: object, tmp_path: Path) -> None:
    for name, value in (("a", one), ("b", other)):
        freeze(tmp_path / f"{name}.thaw", session(engine={"field": value}))
    found = [each.sessions[0].engine["field"] for each in Folder(tmp_path).scan()]
    assert list(map(repr, found)) == [repr(one), repr(other)]


def test_names_are_sorted_and_other_files_are_none_of_ours(tmp_path: Path) -> None:
    for name in ("b.thaw", "a.thaw", "ü x.thaw"):
        freeze(tmp_path / name)
    freeze(tmp_path / ".hidden.thaw")
    freeze(tmp_path / "right.thaw").rename(tmp_path / "wrong.THAW")
    (tmp_path / ".c.thaw.0123abcd.partial").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "unfinished.thaw").mkdir()
    (tmp_path / "dangling.thaw").symlink_to("nothing")
    thaw.freeze(
        {"w": torch.ones(1)}, tmp_path / "r.thaw", shard=thaw.Shard(0, 2), snapshot_id="ab" * 16
    )
    assert names(Folder(tmp_path)) == ["a", "b", "ü x"]


def test_a_folder_that_is_not_there_has_none_and_one_that_is_no_folder_is_an_error(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path / "later")
    assert folder.scan() == ()
    (tmp_path / "later").mkdir()
    freeze(tmp_path / "later" / "a.thaw")
    assert names(folder) == ["a"]
    shutil.rmtree(tmp_path / "later")
    assert folder.changed()
    assert names(folder) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        Folder(tmp_path / "file").scan()


def test_sessions_come_and_go(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert names(folder) == []
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", ranks=2)
    assert names(folder) == ["a", "b"]
    (tmp_path / "a.thaw").unlink()
    assert names(folder) == ["b"]
    shutil.rmtree(tmp_path / "b.thaw")
    assert names(folder) == []


@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_a_session_that_is_replaced_is_read_again(ranks: tuple[int, int], tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    before, after = ranks
    path = freeze(tmp_path / "a.thaw", session(first=1), ranks=before)
    one = only(folder)
    if before > after:
        shutil.rmtree(path)
    freeze(path, session(first=1000), ranks=after)
    two = only(folder)
    assert (len(one.sessions), len(two.sessions)) == ranks
    assert one.snapshot_id != two.snapshot_id
    assert struct.unpack_from("<I", two.sessions[0].token_ids) == (1000,)


def test_nothing_is_opened_where_nothing_changed(tmp_path: Path, opened: list[str]) -> None:
    path = freeze(tmp_path / "0.thaw", session(2000 * 16))
    folder = Folder(tmp_path)
    for number in range(1, 1000):
        os.link(path, tmp_path / f"{number}.thaw")
    freeze(tmp_path / "ranks.thaw", ranks=2)
    (tmp_path / "broken.thaw").write_bytes(b"no session")
    shutil.copytree(tmp_path / "ranks.thaw", tmp_path / "half.thaw")
    (tmp_path / "half.thaw" / "rank-00001-of-00002.thaw").unlink()
    first = folder.scan()
    assert len(first) == 1003
    opened.clear()
    for _ in range(3):
        assert folder.scan() is first
        folder.changed()
    assert opened == []
    freeze(tmp_path / "7.thaw")
    opened.clear()
    second = folder.scan()
    assert opened == [str(tmp_path / "7.thaw")]
    assert [one is two for one, two in zip(first, second, strict=True)].count(False) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass when it is told to."""
    now = [1000.0]

    def advance(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return advance


def test_a_question_costs_no_scan_until_the_folder_is_another(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    folder = Folder(tmp_path)
    let_time_pass(tmp_path)
    assert folder.changed()
    folder.scan()
    assert not folder.changed()
    freeze(tmp_path / "a.thaw")
    assert folder.changed()
    assert folder.changed()
    let_time_pass(tmp_path)
    folder.scan()
    assert not folder.changed()
    clock(module.RESCAN_S)
    assert folder.changed()
    folder.scan()
    (tmp_path / "a.thaw").unlink()
    assert folder.changed()


def let_time_pass(folder: Path) -> None:
    """Have a folder be changed a second ago, and not just now."""
    then = folder.stat().st_mtime_ns - 1_000_000_000
    os.utime(folder, ns=(then, then))


def test_what_comes_within_a_tick_of_the_folder_s_time_is_seen(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    freeze(tmp_path / "a.thaw")
    assert [each.name for each in folder.refresh()] == ["a"]
    before = tmp_path.stat().st_mtime_ns
    freeze(tmp_path / "b.thaw")
    os.utime(tmp_path, ns=(before, before))
    assert [each.name for each in folder.refresh()] == ["a", "b"]


def test_a_server_looks_at_what_is_new_and_at_all_from_time_to_time(
    tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    find = module.find

    def noting(path: Path) -> object:
        looked.append(path.name)
        return find(path)

    monkeypatch.setattr(module, "find", noting)
    for name in "abc":
        freeze(tmp_path / f"{name}.thaw")
    folder = Folder(tmp_path)
    first = folder.refresh()
    assert first == Folder(tmp_path).scan()
    looked.clear()
    assert folder.refresh() is first
    assert looked == []
    freeze(tmp_path / "b.thaw", session(first=1000))
    freeze(tmp_path / "d.thaw", ranks=2)
    second = folder.refresh()
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1].snapshot_id != first[1].snapshot_id
    assert [each.name for each in second] == ["a", "b", "c", "d"]
    assert sorted(looked) == ["b.thaw", "d.thaw"]
    (tmp_path / "a.thaw").unlink()
    assert folder.refresh() == second[1:]
    age(tmp_path / "b.thaw", frozen_s=9, used_s=5)
    assert folder.refresh() == second[1:]
    (tmp_path / "c.thaw").write_bytes(b"no session")
    assert folder.refresh() == second[1:]
    clock(module.RESCAN_S)
    third = folder.refresh()
    assert [each.error is None for each in third] == [True, False, True]
    looked.clear()
    assert folder.refresh() is folder.refresh()
    assert looked == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_session_that_is_used_stays_the_same_entry_for_a_server(
    tmp_path: Path, ranks: int, clock: Callable[[float], None]
) -> None:
    path = freeze(tmp_path / "a.thaw", ranks=ranks)
    freeze(tmp_path / "b.thaw")
    folder = Folder(tmp_path)
    first = folder.refresh()
    folder.touch(first[0])
    age(path, frozen_s=50, used_s=5)
    clock(module.RESCAN_S)
    rewritten = folder.refresh()
    assert rewritten[0].snapshot_id == first[0].snapshot_id
    folder.touch(rewritten[0])
    clock(module.RESCAN_S)
    assert folder.refresh() is rewritten
    (scanned, _) = folder.scan()
    assert scanned.used == pytest.approx(time.time(), abs=60)
    assert scanned.used != rewritten[0].used


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_reads_a_session_has_not_used_it(ranks: int, tmp_path: Path) -> None:
    path = freeze(tmp_path / "a.thaw", ranks=ranks)
    days = 86400.0
    age(path, frozen_s=9 * days, used_s=5 * days)
    found = only(Folder(tmp_path))
    assert found.used == pytest.approx(time.time() - 5 * days, abs=60)
    thaw.verify(path)
    assert only(Folder(tmp_path)).used == found.used


@pytest.mark.parametrize("ranks", [1, 2])
def test_use_is_marked(ranks: int, tmp_path: Path, opened: list[str]) -> None:
    path = freeze(tmp_path / "a.thaw", ranks=ranks)
    place = path / "snapshot.json" if ranks > 1 else path
    age(path, frozen_s=1000, used_s=500)
    folder = Folder(tmp_path)
    one, written_ns = only(folder), place.stat().st_mtime_ns
    opened.clear()
    folder.touch(one)
    assert opened == [str(place)]
    two = only(folder)
    assert opened == [str(place)]
    assert two == replace(one, used=two.used)
    assert two.used == pytest.approx(time.time(), abs=60)
    assert place.stat().st_mtime_ns == written_ns


def test_use_is_not_marked_of_what_is_gone_or_another(tmp_path: Path) -> None:
    path = freeze(tmp_path / "a.thaw")
    folder = Folder(tmp_path)
    entry = only(folder)
    freeze(path)
    age(path, frozen_s=300, used_s=200)
    before = path.stat()
    folder.touch(entry)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (
        before.st_atime_ns,
        before.st_mtime_ns,
    )
    path.unlink()
    folder.touch(entry)
    assert not path.exists()


def test_files_are_closed(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", ranks=2)
    freeze(tmp_path / "c.thaw", metadata={})
    before = len(os.listdir("/proc/self/fd"))
    Folder(tmp_path).scan()
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.thaw").symlink_to(freeze(tmp_path / "else" / "x.thaw"))
    (tmp_path / "here" / "b.thaw").symlink_to(freeze(tmp_path / "else" / "y.thaw", ranks=2))
    assert [(each.name, each.error) for each in Folder(tmp_path / "here").scan()] == [
        ("a", None),
        ("b", None),
    ]
    assert stat.S_ISLNK((tmp_path / "here" / "a.thaw").lstat().st_mode)


def test_a_scan_needs_no_torch(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", ranks=2)
    code = (
        "import sys; from thaw.vllm.kv.folder import Folder; "
        f"print(len(Folder({str(tmp_path)!r}).scan()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
