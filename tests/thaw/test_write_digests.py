"""A backend's digests are looked at before its file replaces another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from thaw_format import Description, layout_tensors, write_shard

import thaw
from thaw.plugins.reference import ReferenceBackend

TENSORS = {"a": torch.arange(5000)}
CHUNK_NBYTES = 4096
WRONG: dict[str, tuple[Callable[[tuple[int, ...]], Any], str]] = {
    "none": (lambda found: (), "0 digests for 10 chunks"),
    "too few": (lambda found: found[:-1], "9 digests for 10 chunks"),
    "too many": (lambda found: (*found, 0), "11 digests for 10 chunks"),
    "too wide": (lambda found: (1 << 32, *found[1:]), "chunk 0 is 4294967296"),
    "negative": (lambda found: (*found[:-1], -1), "chunk 9 is -1"),
    "no numbers": (lambda found: (*found[:3], "5", *found[4:]), "chunk 3 is '5'"),
    "fractions": (lambda found: (*found[:3], 5.0, *found[4:]), r"chunk 3 is 5\.0"),
}


class Wrong(ReferenceBackend):
    """Writes every byte, and says something else of it."""

    name = "wrong"

    def __init__(self, change: Callable[[tuple[int, ...]], Any]) -> None:
        super().__init__()
        self._change = change

    def write(self, *args: Any, **options: Any) -> thaw.Transfer:
        done = super().write(*args, **options)
        return replace(done, digests=self._change(done.digests))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    thaw.freeze({"old": torch.ones(3)}, tmp_path / "m.thaw")
    return tmp_path / "m.thaw"


def check_untouched(old: Path) -> None:
    assert [each.name for each in old.parent.iterdir()] == ["m.thaw"]
    thaw.verify(old)
    assert list(thaw.restore(old)) == ["old"]


@pytest.mark.parametrize("name", WRONG)
def test_a_backend_that_says_something_else_replaces_nothing(old: Path, name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(thaw.BackendError, match=f"'wrong' .*{message}"):
        thaw.freeze(TENSORS, old, backend=Wrong(change), chunk_nbytes=CHUNK_NBYTES)
    check_untouched(old)


@pytest.mark.parametrize("name", WRONG)
def test_nor_does_another_writer_of_the_format(old: Path, name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        write_shard(
            old,
            layout_tensors(TENSORS),
            Description(producer={"name": "x", "version": "1"}, chunk_nbytes=CHUNK_NBYTES),
            lambda target, layout, chunks: change((0,) * len(chunks)),
        )
    check_untouched(old)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("folder", ["/dev/shm", None])
def test_a_file_of_memory_that_changes_verifies(
    tmp_path: Path, folder: str | None, backend: str
) -> None:
    memory, over = torch.zeros(12_000_000, dtype=torch.uint8), threading.Event()

    def change() -> None:
        while not over.is_set():
            memory.add_(1)

    path = Path(folder or tmp_path, f"thaw-test-{id(tmp_path)}.thaw")
    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(5):
            thaw.freeze({"a": memory}, path, backend=backend)
            thaw.verify(path)
    finally:
        over.set()
        changing.join()
        path.unlink(missing_ok=True)
