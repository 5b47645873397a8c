"""Loads and freezes of a rank: the very bytes, or an end that says what was wrong."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_ranks import Engine, order_of
from made_requests import begin, request, scheduler
from made_sessions import ENGINE, freeze

import thaw
from thaw.vllm.kv.folder import Folder

LARGE = (1, 16, 4096)
"""A row of 128 KiB, so that chunks end within a session."""


def rows(engine: Engine, blocks: list[int]) -> list[bytes]:
    return [
        each[blocks].contiguous().view(torch.uint8).numpy().tobytes()
        for each in engine.tensors.values()
    ]


@pytest.fixture
def frozen(tmp_path: Path) -> tuple[Engine, Path]:
    engine, path = Engine(row=LARGE), tmp_path / "a.thaw"
    assert engine.freeze(path, list(range(1, 39))).reason == ""
    return engine, path


def test_what_is_loaded_is_what_was_frozen(tmp_path: Path) -> None:
    one, other, path = Engine(seed=1), Engine(seed=2), tmp_path / "a.thaw"
    moved = one.freeze(path, [5, 6, 9, 3, 2, 30])
    assert (moved.reason, moved.nbytes) == ("", 2 * 6 * 64)
    untouched = rows(other, [*range(10), *range(13, 17), *range(18, 40)])
    assert other.load(path, [1, 2, 3, 5], [10, 11, 12, 17]).reason == ""
    assert rows(other, [10, 11, 12, 17]) == rows(one, [6, 9, 3, 30])
    assert rows(other, [*range(10), *range(13, 17), *range(18, 40)]) == untouched
    with thaw.open(path) as snapshot:
        assert snapshot.kind == "kv"


def _at(where: str) -> Callable[[thaw.Snapshot], int]:
    places: dict[str, Callable[[thaw.Snapshot], int]] = {
        "superblock": lambda snapshot: 40,
        "manifest": lambda snapshot: 4096 + 100,
        "digests": lambda snapshot: snapshot.digests[0].chunks.offset - 4097,
        "first byte": lambda snapshot: snapshot.digests[0].chunks.offset,
        "middle": lambda snapshot: snapshot.digests[0].chunks.offset + (3 << 20) + 17,
        "last byte": lambda snapshot: -1,
    }
    return places[where]


@pytest.mark.parametrize("where", ["superblock", "manifest", "first byte", "middle", "last byte"])
def test_a_flipped_bit_is_found_wherever_it_is(frozen: Any, where: str) -> None:
    engine, path = frozen
    with thaw.open(path) as snapshot:
        identity, place = snapshot.snapshot_id, _at(where)(snapshot)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    moved = engine.load_that(path, identity, list(range(38)), list(range(1, 39)))
    assert moved.reason == "damaged"
    assert moved.error


def test_a_flipped_bit_in_the_digests_is_found(frozen: Any) -> None:
    engine, path = frozen
    with thaw.open(path) as snapshot:
        identity = snapshot.snapshot_id
        value = snapshot.digests[0].values[1].to_bytes(4, "little")
    data = bytearray(path.read_bytes())
    data[data.index(value)] ^= 1
    path.write_bytes(data)
    moved = engine.load_that(path, identity, list(range(38)), list(range(1, 39)))
    assert moved.reason == "damaged"


def test_a_flipped_bit_in_a_part_that_is_loaded_alone_is_found(frozen: Any) -> None:
    engine, path = frozen
    with thaw.open(path) as snapshot:
        identity, begin = snapshot.snapshot_id, snapshot.digests[0].chunks.offset
    data = bytearray(path.read_bytes())
    data[begin + (1 << 17) + 5] ^= 1  # in the second of 38 blocks
    path.write_bytes(data)
    assert engine.load_that(path, identity, [1], [1]).reason == "damaged"


@pytest.mark.parametrize("left", [0, 100, 4096, 5000, -4096, -1])
def test_a_truncated_file_is_damaged(frozen: Any, left: int) -> None:
    engine, path = frozen
    with thaw.open(path) as snapshot:
        identity = snapshot.snapshot_id
    path.write_bytes(path.read_bytes()[:left])
    moved = engine.load_that(path, identity, list(range(38)), list(range(1, 39)))
    assert moved.reason == "damaged"


def test_a_file_that_has_gone_or_is_another_is_gone(frozen: Any) -> None:
    engine, path = frozen
    with thaw.open(path) as snapshot:
        identity = snapshot.snapshot_id
    engine.freeze(path, [1, 2])
    assert engine.load_that(path, identity, [0], [1]).reason == "gone"
    path.unlink()
    assert engine.load_that(path, identity, [0], [1]).reason == "gone"


@pytest.mark.parametrize(
    ("members", "reason"),
    [({"fingerprint": "0e" * 32}, "weights"), ({"engine": ENGINE | {"dtype": "odd"}}, "engine")],
)
def test_a_load_compares_once_more(tmp_path: Path, members: dict[str, Any], reason: str) -> None:
    Engine().freeze(tmp_path / "a.thaw", [1])
    moved = Engine(**members).load(tmp_path / "a.thaw", [0], [1])
    assert moved.reason == reason


def test_elements_of_the_same_width_are_not_taken_for_others(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")  # of bfloat16
    engine = Engine(dtype=torch.float16)
    before = rows(engine, list(range(40)))
    moved = engine.load(tmp_path / "a.thaw", [0], [1])
    assert moved.reason == "layout"
    assert "bfloat16, here of float16" in moved.error
    assert rows(engine, list(range(40))) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyError, MemoryError, AssertionError])
def test_an_error_that_nobody_thought_of_ends_a_transfer(
    tmp_path: Path, error: type[Exception]
) -> None:
    engine = Engine()
    engine.freeze(tmp_path / "a.thaw", [1])

    def bound() -> Any:
        raise error("odd")

    engine.bound = bound
    assert engine.load(tmp_path / "a.thaw", [0], [1]).reason == "failed"
    assert "odd" in engine.freeze(tmp_path / "b.thaw", [1]).error


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system with room for next to nothing."""
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", os.fspath(folder)]
    if os.getuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", os.fspath(folder)], check=True)


def test_a_full_disk_fails_the_freeze_and_leaves_nothing(full: Path) -> None:
    engine = Engine(row=LARGE)
    small = Engine().freeze(full / "small.thaw", [1])
    moved = engine.freeze(full / "a.thaw", [1, 2, 3])
    assert (small.reason, moved.reason) == ("", "failed")
    assert "No space left on device" in moved.error
    assert "a.thaw" in moved.error
    assert os.listdir(full) == ["small.thaw"]


def test_a_folder_that_is_read_alone_serves_and_takes_nothing(full: Path) -> None:
    engine, path = Engine(), full / "a.thaw"
    assert engine.freeze(path, [1, 2, 3, 4]).reason == ""
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(full)], check=True)
    for ranks in (1, 2):
        made = scheduler(full, ranks=ranks)
        asked = request(freeze="b")
        found = begin(made, asked)
        assert found == (64 if ranks == 1 else 0)
        stays, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
        assert stays == (ranks == 1)
        assert ("Read-only file system" in str(said)) == (ranks == 2)
        made.close()
    assert engine.load(path, [0, 1], [5, 6]).reason == ""
    assert rows(engine, [5, 6]) == rows(engine, [1, 2])
    moved = engine.freeze(full / "b.thaw", [1])
    assert moved.reason == "failed"
    assert "Read-only file system" in moved.error


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from made_ranks import Engine
import thaw.vllm.kv.transfers as transfers
import thaw_format.sealing as sealing

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

places = dict(
    created=(sealing, "FileTarget"),
    payload=(transfers, "written_digests"),
    synchronized=(os, "fsync"),
    superblock=(sealing, "take_access"),
    renamed=(os, "rename"),
)
for path in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        setattr(*places[Path(path).parent.name], die)
        Engine(seed=7).freeze(Path(path), [1, 2, 3])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9, path
"""
STEPS = ["created", "payload", "synchronized", "superblock", "renamed"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill engines at steps of a freeze, where a session has the name and where none has."""
    folder = tmp_path_factory.mktemp("killed")
    paths = [folder / place / step / "a.thaw" for place in ("taken", "free") for step in STEPS]
    for path in paths:
        path.parent.mkdir(parents=True)
        if path.is_relative_to(folder / "taken"):
            Engine().freeze(path, [9])
    code = KILLED.format(here=os.fspath(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    return folder


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("place", ["taken", "free"])
def test_nothing_half_written_is_listed_when_a_freeze_is_killed(
    killed: Path, place: str, step: str
) -> None:
    folder, before = killed / place / step, place == "taken"
    assert len(os.listdir(folder)) == 1 + before  # what it has begun lies there
    listed = Folder(folder).scan()
    assert [(each.name, each.tokens, each.error) for each in listed] == (
        [("a", 16, None)] if before else []
    )
    assert Engine().freeze(folder / "a.thaw", [4, 5]).reason == ""
    assert os.listdir(folder) == ["a.thaw"]
    assert [each.tokens for each in Folder(folder).scan()] == [32]


def test_two_freezes_to_one_name_leave_one_whole_session(tmp_path: Path) -> None:
    engines, path = [Engine(seed=1), Engine(seed=2)], tmp_path / "a.thaw"
    for _ in range(10):
        for each in engines:
            each.transfers.freeze(order_of(path, [1, 2, 3], snapshot_id=secrets.token_hex(16)))
        for each in engines:
            assert each._ended("freezes").reason == ""
        other = Engine(seed=3)
        assert other.load(path, [0, 1, 2], [7, 8, 9]).reason == ""
        assert rows(other, [7, 8, 9]) in [rows(each, [1, 2, 3]) for each in engines]
        assert os.listdir(tmp_path) == ["a.thaw"]
