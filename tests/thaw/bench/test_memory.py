"""The page cache: what it holds, warming it, and taking a file out of it."""

import mmap
from pathlib import Path

import pytest
import torch

from thaw.bench.disk import filesystem
from thaw.bench.memory import (
    PIECE_NBYTES,
    drop,
    resident_pages,
    slots,
    split,
    transfer_buffer,
    warm,
)

PAGES = 100


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if filesystem(tmp_path) in {"tmpfs", "overlay"}:
        pytest.skip("a file system of its own rules")
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGES * mmap.PAGESIZE - 5))
    return path


def resident(path: Path) -> int:
    with path.open("rb") as file:
        return resident_pages(file.fileno())


def test_a_file_is_dropped_and_warmed(file: Path) -> None:
    assert resident(file) == PAGES
    drop(file)
    assert resident(file) == 0
    warm(file)
    assert resident(file) == PAGES


def test_pages_that_stay_are_an_error(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[0] == 0  # pages that are mapped cannot be dropped
        with pytest.raises(OSError, match=r"keeps \d+ of 100 pages"):
            drop(file)


def test_an_empty_file_has_no_pages(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert resident(tmp_path / "empty") == 0


@pytest.mark.parametrize("threads", [1, 4, 16, 32])
def test_threads_share_no_slot(threads: int) -> None:
    memory = transfer_buffer(torch.device("cpu"))
    found = slots(memory, threads, PIECE_NBYTES)
    assert all(1 <= len(each) <= 2 for each in found)
    assert len({id(slot) for each in found for slot in each}) == sum(map(len, found))
    assert memory.data_ptr() % mmap.PAGESIZE == 0


def test_split_cuts_everything() -> None:
    memory = torch.arange(10, dtype=torch.uint8)
    assert [each.tolist() for each in split(memory, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
