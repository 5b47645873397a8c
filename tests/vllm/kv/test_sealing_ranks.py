"""Freezes of several ranks get their name, or leave nothing, and no one else's goes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import thaw_format.staging as staging
from made_ranks import Engine
from made_sessions import BLOCK

from thaw.vllm.kv.folder import Folder
from thaw.vllm.kv.sealing import Sealing


def sealing(folder: Path, **options: Any) -> Sealing:
    return Sealing(folder, **({"ranks": 2, "max_bytes": 0} | options))


def write(path: Path, identity: str, *, ranks: int = 2, blocks: int = 2) -> None:
    for rank in range(ranks):
        engine = Engine(rank=rank, ranks=ranks)
        moved = engine.freeze(path, list(range(1, blocks + 1)), snapshot_id=identity)
        assert moved.reason == ""


def seal(made: Sealing, path: Path, *, blocks: int = 2, failed: bool = False) -> str:
    identity = secrets.token_hex(16)
    made.begin(path, identity)
    write(path, identity, blocks=blocks)
    made.end(path, identity, failed=failed)
    return identity


def test_what_all_ranks_have_written_gets_its_name(tmp_path: Path) -> None:
    made = sealing(tmp_path)
    identity = seal(made, tmp_path / "a.thaw")
    made.close()
    (entry,) = Folder(tmp_path).scan()
    assert (entry.error, entry.snapshot_id, entry.tokens) == (None, identity, 2 * BLOCK)
    assert os.listdir(tmp_path) == ["a.thaw"]


def test_what_a_rank_failed_to_write_leaves_nothing(tmp_path: Path) -> None:
    made = sealing(tmp_path)
    seal(made, tmp_path / "a.thaw", failed=True)
    made.close()
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_sealed_leaves_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, identity = sealing(tmp_path), secrets.token_hex(16)
    made.begin(tmp_path / "a.thaw", identity)
    Engine(rank=0, ranks=2).freeze(tmp_path / "a.thaw", [1], snapshot_id=identity)
    made.end(tmp_path / "a.thaw", identity, failed=False)
    made.close()
    assert os.listdir(tmp_path) == []
    assert "the freeze of session" in caplog.text
    assert "set-rank" in caplog.text


def test_the_next_freeze_of_a_name_removes_what_a_killed_engine_left(tmp_path: Path) -> None:
    path = tmp_path / "a.thaw"
    code = (
        f"import os, sys; sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})\n"
        "import without_vllm\n"
        "from pathlib import Path\n"
        "from thaw.vllm.kv.sealing import Sealing\n"
        f"made = Sealing(Path({os.fspath(tmp_path)!r}), ranks=2, max_bytes=0)\n"
        f"made.begin(Path({os.fspath(path)!r}), '{'0a' * 16}')\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == "begun\n"
        made = sealing(tmp_path)
        seal(made, path)
        made.close()
        # It lives: what it writes to is left alone.
        assert sorted(os.listdir(tmp_path)) == [f".a.thaw.{'0a' * 16}.partial", "a.thaw"]
        engine.send_signal(signal.SIGKILL)
    made = sealing(tmp_path)
    seal(made, path)
    made.close()
    assert os.listdir(tmp_path) == ["a.thaw"]


def test_two_engines_that_seal_one_name_at_once_both_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, path = sealing(tmp_path), sealing(tmp_path), tmp_path / "a.thaw"
    seal(one, path)
    one.close()
    # To the other one it looks as if the name were free, until it takes it.
    seen: list[str] = []

    def looked(found: Any) -> bool:
        seen.append(os.fspath(found))
        return len(seen) > 1

    monkeypatch.setattr(staging.os.path, "lexists", looked)
    identity = seal(other, path)
    other.close()
    (entry,) = Folder(tmp_path).scan()
    assert (entry.error, entry.snapshot_id) == (None, identity)
    assert os.listdir(tmp_path) == ["a.thaw"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_folder_that_is_full_loses_what_was_not_used_for_longest(
    tmp_path: Path, ranks: int
) -> None:
    sizes = Sealing(tmp_path / "first", ranks=ranks, max_bytes=0)
    (tmp_path / "first").mkdir()
    freeze_one(sizes, tmp_path / "first" / "a.thaw", ranks)
    sizes.close()
    nbytes = Folder(tmp_path / "first").scan()[0].nbytes
    folder = tmp_path / "sessions"
    folder.mkdir()
    made = Sealing(folder, ranks=ranks, max_bytes=3 * nbytes)
    for index, name in enumerate("abcd"):
        freeze_one(made, folder / f"{name}.thaw", ranks)
        made.close()
        made = Sealing(folder, ranks=ranks, max_bytes=3 * nbytes)
        if name == "c":
            entries = {each.name: each for each in Folder(folder).scan()}
            Folder(folder).touch(entries["a"])
        assert len(os.listdir(folder)) == min(index + 1, 3)
    assert sorted(os.listdir(folder)) == ["a.thaw", "c.thaw", "d.thaw"]


def freeze_one(made: Sealing, path: Path, ranks: int) -> None:
    identity = secrets.token_hex(16)
    made.begin(path, identity)
    write(path, identity, ranks=ranks)
    made.end(path, identity, failed=False)
