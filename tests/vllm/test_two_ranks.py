"""Real engines with two ranks in processes of their own: what they decode and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import thaw

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 600
TWO = {"tensor_parallel_size": 2}
UNPACKED = {"worker_extension_cls": "extension.Extension"}
LLAMA = {"model": "llama", "snapshot": "llama.thaw"}
INDEX = "snapshot.json"
SECOND = "rank-00001-of-00002.thaw"
MISSING = "rank-00001-of-00002.thaw: rank 1 has no file"
STEPS = [
    ("llama", "save", {"name": "llama"}),
    ("apart", "multiprocessing", {"on": True}),
    ("default", "start", {"model": "llama", **TWO, **UNPACKED}),
    ("default decoded", "decode", {}),
    ("live frozen", "freeze_live", {"path": "live.thaw"}),
    ("live verified", "verify", {"path": "live.thaw"}),
    ("damaged", "flip", {"source": "live.thaw", "path": "damaged.thaw", "file": SECOND}),
    ("half restored", "restore_live", {"path": "damaged.thaw"}),
    ("half frozen", "freeze_live", {"path": "half.thaw"}),
    ("half decoded", "decode", {}),
    ("live restored", "restore_live", {"path": "live.thaw"}),
    ("live decoded", "decode", {}),
    ("killed", "freeze_live", {"path": "deadly.thaw"}),
    ("default stopped", "stop", {}),
    ("misfrozen", "freeze", {"model": "llama", "path": "llama.thaw", "dtype": "odd", **TWO}),
    ("frozen", "freeze", {"model": "llama", "path": "llama.thaw", **TWO}),
    ("loaded", "load", LLAMA | TWO | UNPACKED | {"verify": True}),
    ("decoded", "decode", {}),
    ("stopped", "stop", {}),
    ("copied", "flip", {"source": "llama.thaw", "path": "flipped.thaw", "file": SECOND}),
    ("a flipped bit", "load", LLAMA | TWO | {"snapshot": "flipped.thaw"}),
    ("parted", "copy_without", {"source": "llama.thaw", "path": "parted.thaw", "file": SECOND}),
    ("a missing rank", "load", LLAMA | TWO | {"snapshot": "parted.thaw"}),
    ("begun", "copy_without", {"source": "llama.thaw", "path": "begun.thaw", "file": INDEX}),
    ("here", "multiprocessing", {"on": False}),
    ("one rank", "load", LLAMA),
    ("not sealed", "load", LLAMA | {"snapshot": "begun.thaw"}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("two-ranks", STEPS, limit_s=LIMIT_S)


@pytest.mark.parametrize("decoded", ["decoded", "live decoded"])
def test_decodes_what_the_default_loader_s_weights_decode(answers: Any, decoded: str) -> None:
    expected = answers.value("default decoded")
    assert len({token for each in expected for token in each["tokens"]}) > 3
    assert answers.value(decoded) == expected


@pytest.mark.parametrize("frozen", ["frozen", "live frozen"])
def test_a_folder_holds_a_file_of_each_rank(answers: Any, frozen: str) -> None:
    report = answers.value(frozen)
    assert report["ranks"] == 2
    assert report["tensors"] == sum(
        len(thaw.open(report["path"], rank=rank).tensors) for rank in (0, 1)
    )


def test_a_live_engine_is_what_was_frozen_of_it(answers: Any) -> None:
    assert answers.value("live restored")["nbytes"] == answers.value("live frozen")["nbytes"]
    assert answers.value("live verified") == []


def test_damage_in_one_rank_is_named_when_a_live_engine_is_restored(answers: Any) -> None:
    assert f"rank 1: {answers.folder}/damaged.thaw/{SECOND}: chunk 0" in (
        answers["half restored"].error
    )


def test_half_restored_weights_are_not_frozen(answers: Any) -> None:
    assert "rank 1: the weights of this engine are undefined" in answers["half frozen"].error


def test_half_restored_weights_are_not_served(answers: Any) -> None:
    assert answers["half decoded"].error.startswith("ThawError: this engine serves nothing")
    assert f"{answers.folder}/damaged.thaw" in answers["half decoded"].error


def test_a_rank_that_dies_while_it_freezes_leaves_nothing(answers: Any) -> None:
    assert answers["killed"].error
    assert not (answers.folder / "deadly.thaw").exists()


def test_a_freeze_that_failed_does_not_stand_in_the_way_of_the_next(answers: Any) -> None:
    assert "odd" in answers["misfrozen"].error
    assert answers.value("frozen")["ranks"] == 2


def test_damage_in_one_rank_ends_the_engine_and_is_named(answers: Any) -> None:
    fault = answers["a flipped bit"]
    assert "Engine core initialization failed" in fault.error
    assert f"rank 1: {answers.folder}/flipped.thaw/{SECOND}: chunk 0" in fault.error
    assert "is damaged: it fails its CRC32C" in fault.error


def test_a_missing_rank_ends_the_engine_and_is_named(answers: Any) -> None:
    fault = answers["a missing rank"]
    assert "Engine core initialization failed" in fault.error
    assert MISSING in fault.error


def test_a_snapshot_of_two_ranks_is_refused_by_one(answers: Any) -> None:
    assert "tensor_parallel is 0 of 2 in the snapshot, 0 of 1" in answers["one rank"].error


def test_what_was_never_sealed_is_refused(answers: Any) -> None:
    assert "no snapshot.json: the folder is an unfinished snapshot" in answers["not sealed"].error
