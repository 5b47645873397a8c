"""What is no session, half of one, or changes while it is read is never taken for one."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_sessions import LAYERS, freeze, session

import thaw
from thaw.vllm.kv import entries
from thaw.vllm.kv.folder import Entry, Folder


def names(folder: Folder) -> list[str]:
    return [each.name for each in folder.scan()]


def only(folder: Folder) -> Entry:
    (entry,) = folder.scan()
    return entry


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "truncated-superblock"),
    "foreign": (lambda p: p.write_bytes(b"THAW" + bytes(8192)), "foreign-magic"),
    "superblock": (lambda p: flip(freeze(p), 100), "superblock"),
    "manifest": (lambda p: flip(freeze(p), 4200), "manifest-checksum"),
    "truncated": (lambda p: os.truncate(freeze(p), 5000), "truncated"),
    "weights": (lambda p: thaw.freeze({"w": torch.ones(1)}, p), "kind 'weights'"),
    "no record": (lambda p: freeze(p, metadata={}), "session-missing"),
    "bad record": (lambda p: freeze(p, metadata={"session": {"major": 9}}), "session-version"),
    "one of two": (lambda p: freeze(p).rename(p) and one_of_two(p), "rank 0 of 2"),
    "pipe": (os.mkfifo, "a pipe"),
    "line breaks": (
        lambda p: freeze(p, metadata={"session": session().record()["session"] | {"media": 1}}),  # type: ignore[operator]
        "session-member-type",
    ),
}


def one_of_two(path: Path) -> None:
    folder = path.with_name("two")
    freeze(folder, ranks=2)
    path.unlink()
    shutil.copy(folder / "rank-00000-of-00002.thaw", path)


@pytest.mark.parametrize("case", BROKEN)
def test_one_that_is_broken_is_named_and_the_others_serve(case: str, tmp_path: Path) -> None:
    make, words = BROKEN[case]
    freeze(tmp_path / "a.thaw")
    make(tmp_path / "m.thaw")
    freeze(tmp_path / "z.thaw")
    folder = Folder(tmp_path)
    good, bad, other = folder.scan()
    assert (good.error, other.error) == (None, None)
    assert (bad.name, bad.path, bad.sessions) == ("m", tmp_path / "m.thaw", ())
    assert words in str(bad.error)
    assert "\n" not in str(bad.error)
    assert folder.scan()[1] is bad
    (tmp_path / "m.thaw").unlink()
    freeze(tmp_path / "m.thaw")
    assert [each.error for each in folder.scan()] == [None, None, None]


def test_ranks_that_differ_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.thaw"
    for rank in range(2):
        said = session(first=rank)
        tensors = {name: torch.zeros(4, 1, 16, 2, dtype=torch.bfloat16) for name in LAYERS}
        thaw.freeze(
            tensors,
            path,
            kind="kv",
            metadata=said.record(),
            shard=thaw.Shard(rank, 2),
            snapshot_id="ab" * 16,
        )
    thaw.finish_ranks(path)
    assert "session-ranks, KV-22" in str(only(Folder(tmp_path)).error)


def test_the_file_of_a_rank_that_is_broken_is_named_and_seen_when_it_is_mended(
    tmp_path: Path,
) -> None:
    path = freeze(tmp_path / "a.thaw", ranks=2)
    file = path / "rank-00001-of-00002.thaw"
    data = file.read_bytes()
    folder = Folder(tmp_path)
    file.write_bytes(data[:5000])
    error = only(folder).error
    assert error is not None
    assert error.startswith("rank-00001-of-00002.thaw: ")
    file.write_bytes(data)
    assert only(folder).error is None
    file.unlink()
    assert only(folder).error is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_is_tried_again(tmp_path: Path) -> None:
    path = freeze(tmp_path / "a.thaw")
    path.chmod(0)
    folder = Folder(tmp_path)
    assert only(folder).error == "Permission denied"
    path.chmod(0o600)
    assert only(folder).error is None


def test_what_may_not_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    freeze(tmp_path / "a.thaw")
    folder = Folder(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        assert only(folder).error == "Too many open files"
    assert only(folder).error is None


def test_a_session_that_is_replaced_while_it_is_read_is_never_half_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = freeze(tmp_path / "a.thaw", session(first=1), ranks=2)
    read = entries.open_ranks
    replaced = []

    def replacing(place: Path) -> object:
        if not replaced:
            replaced.append(1)
            opened = read(place)
            for each in opened:
                each.close()
            freeze(path, session(first=1000), ranks=2)
            raise thaw.FormatError("is of another snapshot", code="set-root-digest")
        return read(place)

    monkeypatch.setattr(entries, "open_ranks", replacing)
    found = only(Folder(tmp_path))
    assert found.error is None
    assert struct.unpack_from("<I", found.sessions[0].token_ids) == (1000,)


def test_a_session_that_goes_while_it_is_read_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = freeze(tmp_path / "a.thaw")
    read = entries.open_ranks

    def removing(place: Path) -> object:
        path.unlink(missing_ok=True)
        return read(place)

    monkeypatch.setattr(entries, "open_ranks", removing)
    assert names(Folder(tmp_path)) == []
