"""Folders of several ranks, beyond what vectors show: closed files, and indexes that are made."""

import errno
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import thaw_format
import torch
from thaw_format import (
    Description,
    FormatError,
    RankOf,
    Shard,
    open_rank_files,
    open_ranks,
    parse_json,
    rank_file,
    ranks,
    serialize_index,
    verify_shard,
    write_file,
    write_tensors,
)
from thaw_format.checksum import crc32c

import thaw

ID = bytes(range(16))
Freeze = Callable[..., Path]


@pytest.fixture
def freeze(tmp_path: Path) -> Freeze:
    """Return a function that writes the shards of a set, and no index."""

    def write(*shards: Shard, kinds: tuple[str, ...] = ()) -> Path:
        for rank, shard in enumerate(shards):
            kind = kinds[rank] if kinds else "weights"
            said = Description(
                kind=kind, shard=shard, snapshot_id=ID, producer={"name": "a", "version": "b"}
            )
            tensors = {"w": torch.arange(9) + rank}
            write_tensors(tmp_path / rank_file(rank, len(shards)), tensors, said)
        return tmp_path

    return write


@pytest.fixture
def folder(freeze: Freeze) -> Path:
    path = freeze(*(Shard(rank, 3) for rank in range(3)))
    seal(path)
    return path


def seal(path: Path) -> None:
    shards = open_rank_files(path)
    write_file(path / "snapshot.json", serialize_index(shards))
    for each in shards:
        each.close()


def open_files(path: Path) -> int:
    links = (Path("/proc/self/fd", each) for each in os.listdir("/proc/self/fd"))
    return sum(link.is_symlink() and path in link.readlink().parents for link in links)


def test_files_beyond_a_number_are_closed_until_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "MAX_OPEN", 1)
    shards = open_ranks(folder)
    assert open_files(folder) == 1
    assert [verify_shard(each) for each in shards] == [1, 1, 1]
    assert open_files(folder) == 1
    source = shards[2].sources[0]
    assert isinstance(source, thaw_format.FileSource)
    assert source.read(0, 5) == b"\x89THAW"
    assert os.pread(source.fileno(), 5, 0) == b"\x89THAW"
    assert open_files(folder) == 2
    for each in shards:
        each.close()
    assert open_files(folder) == 0


@pytest.mark.parametrize("change", ["replaced", "rewritten", "shorter"])
def test_a_file_that_changes_meanwhile_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(ranks, "MAX_OPEN", 0)
    shards = open_ranks(folder)
    path = folder / rank_file(1, 3)
    if change == "replaced":
        shutil.copy(path, folder / "copy")
        (folder / "copy").rename(path)
    elif change == "rewritten":
        with path.open("r+b") as file:
            file.seek(60)
            file.write(b"?")
    else:
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(OSError, match="another file") as error:
        verify_shard(shards[1])
    assert (error.value.errno, error.value.filename) == (errno.ESTALE, str(path))
    assert verify_shard(shards[0]) == 1
    assert open_files(folder) == 0


def test_the_index_has_its_checksum_once(folder: Path) -> None:
    data = (folder / "snapshot.json").read_bytes()
    digits = json.loads(data)["crc32c"]
    assert data.count(b'"crc32c":"') == 1
    assert data.count(digits.encode()) == 1
    assert digits == f"{crc32c(data.replace(digits.encode(), b'00000000')):08x}"


def test_a_folder_from_before_the_checksum_says_what_to_do(folder: Path) -> None:
    index = folder / "snapshot.json"
    said = json.loads(index.read_bytes())
    del said["crc32c"]
    index.write_text(json.dumps(said))
    with pytest.raises(FormatError, match=r"thaw\.finish_ranks") as error:
        open_ranks(folder)
    assert error.value.code == "set-checksum"
    thaw.finish_ranks(folder)
    for each in open_ranks(folder):
        each.close()


def tp(*at: int, size: int = 2) -> list[Shard]:
    return [Shard(rank, len(at), tp=RankOf(place, size)) for rank, place in enumerate(at)]


@pytest.mark.parametrize(
    ("shards", "kinds", "code"),
    [
        (tp(0, 1), ("weights", "kv"), "set-kind"),
        (tp(0, 0), (), "set-place"),
        (tp(0, 1, size=3), (), "set-place"),
        ([*tp(0, 1)[:1], Shard(1, 2)], (), "set-place"),
        ([Shard(0, 2, ep=RankOf(0, 2)), Shard(1, 2, ep=RankOf(1, 4))], (), "set-place"),
    ],
)
def test_ranks_that_do_not_agree_are_not_sealed(
    freeze: Freeze, shards: list[Shard], kinds: tuple[str, ...], code: str
) -> None:
    path = freeze(*shards, kinds=kinds)
    with pytest.raises(FormatError) as error:
        thaw.finish_ranks(path)
    assert error.value.code == code
    assert not (path / "snapshot.json").exists()
    assert open_files(path) == 0


def test_ranks_that_agree_are_sealed(freeze: Freeze) -> None:
    path = freeze(*tp(1, 0, 0, 1))
    thaw.finish_ranks(path)
    assert len(open_rank_files(path)) == 4


def test_a_text_of_too_many_values_takes_no_memory() -> None:
    data = b'{"a":[' + b"{}," * ((8 << 20) // 3) + b"{}]}"
    tracemalloc.start()
    with pytest.raises(FormatError) as error:
        parse_json(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.code == "limit"
    assert peak < 5 * len(data)


def test_a_writer_keeps_to_the_alignment_that_it_should(folder: Path) -> None:
    shards = open_ranks(folder)
    for section in (section for each in shards for section in each.superblock.sections):
        assert section.offset % 64 == 0
    assert all(each.superblock.section(3).offset % 65536 == 0 for each in shards)
    for each in shards:
        each.close()
