"""What a checkpoint was made of comes back when its tensors are written again."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from thaw_safetensors import (
    INDEX_NAME,
    METADATA_KEY,
    SINGLE_NAME,
    open_checkpoint,
    write_checkpoint,
    write_checkpoint_like,
)

NAMES = ("a.safetensors", "b.safetensors")


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def copy_like(source: Path, destination: Path, leave: str | None = None) -> list[Path]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")) if source.is_dir() else [source]:
        tensors.update(load_file(file))
    tensors = {name: tensor for name, tensor in tensors.items() if name != leave}
    with open_checkpoint(source) as snapshot:
        return write_checkpoint_like(destination, tensors, snapshot.metadata)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    write_checkpoint(
        folder,
        {"x": torch.ones(3), "y": torch.arange(4), "z": torch.zeros(2)},
        files={"x": NAMES[0], "y": NAMES[1], "z": NAMES[0]},
        metadata={NAMES[0]: {"format": "pt"}, NAMES[1]: {}},
    )
    return folder


def test_like_gives_the_same_files(tmp_path: Path, sharded: Path) -> None:
    copy = tmp_path / "copy"
    written = copy_like(sharded, copy)
    assert written[-1] == copy / INDEX_NAME
    assert files_in(copy) == files_in(sharded)
    for name in files_in(sharded):
        assert (copy / name).read_bytes() == (sharded / name).read_bytes()


def test_like_keeps_the_name_of_the_index(tmp_path: Path, sharded: Path) -> None:
    (sharded / INDEX_NAME).rename(sharded / "other.safetensors.index.json")
    copy_like(sharded, tmp_path / "copy")
    assert files_in(tmp_path / "copy") == files_in(sharded)


def test_like_keeps_the_absence_of_an_index_where_none_is_needed(tmp_path: Path) -> None:
    series = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, file in zip("abc", series, strict=True):
        save_file({name: torch.ones(1)}, folder / file)
    copy_like(folder, tmp_path / "copy")
    assert files_in(tmp_path / "copy") == set(series)
    copy_like(folder, tmp_path / "part", leave="b")
    assert files_in(tmp_path / "part") == {series[0], series[2], INDEX_NAME}
    for each, names in (("copy", {"a", "b", "c"}), ("part", {"a", "c"})):
        with open_checkpoint(tmp_path / each) as snapshot:
            assert set(snapshot.tensors) == names


def test_like_of_files_that_nothing_holds_together_gets_an_index(tmp_path: Path) -> None:
    weight_map = {"a": NAMES[0], "b": NAMES[1]}
    metadata: Any = {METADATA_KEY: {"files": list(NAMES), "weight_map": weight_map}}
    tensors = {"a": torch.ones(1), "b": torch.zeros(1)}
    written = write_checkpoint_like(tmp_path / "copy", tensors, metadata)
    assert written[-1].name == INDEX_NAME
    with open_checkpoint(tmp_path / "copy") as snapshot:
        assert set(snapshot.tensors) == {"a", "b"}


def test_like_gives_back_what_the_index_says(tmp_path: Path, sharded: Path) -> None:
    index = json.loads((sharded / INDEX_NAME).read_text())
    index["metadata"] |= {"total_parameters": 9, "format": "ä", "fraction": 0.1, "list": [1, {}]}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (sharded / INDEX_NAME).write_text(text)
    copy_like(sharded, tmp_path / "copy")
    assert (tmp_path / "copy" / INDEX_NAME).read_text() == text
    copy_like(tmp_path / "copy", tmp_path / "part", leave="x")
    part = json.loads((tmp_path / "part" / INDEX_NAME).read_text())
    assert part["metadata"] == {"total_size": index["metadata"]["total_size"] - 12}


def test_like_of_some_tensors_keeps_their_files(tmp_path: Path, sharded: Path) -> None:
    copy_like(sharded, tmp_path / "copy", leave="y")
    assert files_in(tmp_path / "copy") == {NAMES[0], INDEX_NAME}
    with open_checkpoint(tmp_path / "copy") as snapshot:
        assert set(snapshot.tensors) == {"x", "z"}


def test_like_to_one_file(tmp_path: Path, sharded: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert copy_like(sharded, path) == [path]
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {"x", "y", "z"}


def test_like_leaves_out_metadata_that_differs(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "two",
        {"x": torch.ones(1), "y": torch.ones(1)},
        files={"x": NAMES[0], "y": NAMES[1]},
        metadata={NAMES[0]: {"k": "1", "same": "s"}, NAMES[1]: {"k": "2", "same": "s"}},
    )
    copy_like(tmp_path / "two", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"same": "s"}


def test_like_of_one_file(tmp_path: Path) -> None:
    source = tmp_path / "a name.safetensors"
    save_file({"a": torch.ones(1)}, source, metadata={"format": "pt"})
    copy_like(source, tmp_path / "b.safetensors")
    copy_like(source, tmp_path / "folder")
    assert (tmp_path / "b.safetensors").read_bytes() == source.read_bytes()
    assert (tmp_path / "folder" / source.name).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {},
        {"files": []},
        {"files": ["../a.safetensors"]},
        {"files": list(NAMES)},
        {"files": list(NAMES), "weight_map": {"b": NAMES[0]}},
        {"files": list(NAMES), "weight_map": {"a": "c.safetensors"}},
        {"files": list(NAMES), "weight_map": {"a": ["c"]}},
        {"files": [NAMES[0]], "metadata": {NAMES[0]: {"k": 1}}},
        {"files": [NAMES[0]], "metadata": []},
        {"files": [NAMES[0]], "index": "../x.safetensors.index.json"},
        {"files": [1]},
    ],
)
def test_like_without_a_structure_that_fits(tmp_path: Path, value: Any) -> None:
    tensors = {"a": torch.ones(1)}
    for metadata in ({METADATA_KEY: value}, {}):
        folder = tmp_path / str(len(metadata))
        assert write_checkpoint_like(folder, tensors, metadata) == [folder / SINGLE_NAME]
        assert load_file(folder / SINGLE_NAME)["a"].tolist() == [1]


def test_like_checks_tensors_first(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex128"):
        write_checkpoint_like(tmp_path / "x", {"a": torch.ones(1, dtype=torch.complex128)}, {})
    assert not os.listdir(tmp_path)
