"""Files that the safetensors library wrote open as what they hold."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from thaw_format import Snapshot, tensor_view
from thaw_safetensors import DTYPES, METADATA_KEY, open_checkpoint, recognizes

INDEX = "model.safetensors.index.json"


def contents(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, spec in snapshot.tensors.items():
        storage = snapshot.storages[spec.storage]
        source = snapshot.sources[storage.source]
        with open(source.path, "rb") as file:
            file.seek(storage.offset)
            raw = bytearray(file.read(storage.nbytes))
        memory = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0).byte()
        tensors[name] = tensor_view(memory.clone(), spec, spec.offset)
    return tensors


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def check_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw(found[name]) == raw(tensor), name


def every_dtype() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    tensors = {}
    for name, dtype in DTYPES.items():
        data = torch.randint(0, 256, (3, 4 * dtype.itemsize), dtype=torch.uint8)
        tensors[f"{name}.random"] = data.view(dtype)
        tensors[f"{name}.empty"] = torch.empty(2, 0, 3, dtype=dtype)
        if name != "F4":
            tensors[f"{name}.scalar"] = data.flatten()[: dtype.itemsize].clone().view(dtype)[0]
    return tensors


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    shards = {
        "model-00001-of-00002.safetensors": {"a": torch.arange(5), "b": torch.ones(2, 3)},
        "model-00002-of-00002.safetensors": {"c": torch.zeros(7, dtype=torch.bfloat16)},
    }
    for file, tensors in shards.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": 78.0}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_every_dtype(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(every_dtype(), path)
    with open_checkpoint(path) as snapshot:
        check_same(contents(snapshot), load_file(path))
        check_same(contents(snapshot), every_dtype())
        assert (snapshot.format, snapshot.path, snapshot.digests) == ("safetensors", path, (None,))
        assert len(snapshot.storages) == len(snapshot.tensors)
        assert [each.offset for each in snapshot.storages] == sorted(
            each.offset for each in snapshot.storages
        )


def test_packed_4_bit_shapes_count_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(2, 6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, path)
    assert b'"shape":[2,12]' in path.read_bytes()
    with open_checkpoint(path) as snapshot:
        assert snapshot.tensors["w"].shape == (2, 6)
        assert snapshot.tensors["w"].stride == (6, 1)


def test_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({}, path)
    with open_checkpoint(path) as snapshot:
        assert not snapshot.tensors
        assert not snapshot.nbytes


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt", "ä\n": "ü\u20ac"}])
def test_metadata(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata=metadata)
    remembered = {} if metadata is None else {path.name: metadata}
    with open_checkpoint(path) as snapshot:
        assert snapshot.metadata == {METADATA_KEY: {"files": [path.name], "metadata": remembered}}


def test_trailing_spaces_and_unknown_members(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "note": 1.5}
    header = json.dumps({"__metadata__": None, "a": entry}).encode() + b" \n\t  "
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    with open_checkpoint(path) as snapshot:
        check_same(contents(snapshot), {"a": torch.tensor([120], dtype=torch.uint8)})
    assert set(load_file(path)) == {"a"}


def test_sharded(checkpoint: Path) -> None:
    with open_checkpoint(checkpoint) as snapshot:
        expected = {"a": torch.arange(5), "b": torch.ones(2, 3)}
        expected["c"] = torch.zeros(7, dtype=torch.bfloat16)
        check_same(contents(snapshot), expected)
        files = sorted(path.name for path in checkpoint.glob("*.safetensors"))
        assert [source.path.name for source in snapshot.sources] == files
        assert snapshot.digests == (None, None)
        assert snapshot.metadata[METADATA_KEY] == {
            "files": files,
            "metadata": {file: {"format": "pt"} for file in files},
            "index": INDEX,
            "weight_map": {"a": files[0], "b": files[0], "c": files[1]},
        }


def test_index_of_another_name(checkpoint: Path) -> None:
    (checkpoint / INDEX).rename(checkpoint / "diffusion.safetensors.index.json")
    with open_checkpoint(checkpoint) as snapshot:
        assert len(snapshot.tensors) == 3


def test_files_beside_an_index_are_left_alone(checkpoint: Path) -> None:
    save_file({"a": torch.ones(1)}, checkpoint / "consolidated.safetensors")
    with open_checkpoint(checkpoint) as snapshot:
        assert set(snapshot.tensors) == {"a", "b", "c"}


def test_folder_without_index(checkpoint: Path) -> None:
    (checkpoint / INDEX).unlink()
    (checkpoint / "._model.safetensors").write_bytes(b"of another system")
    with open_checkpoint(checkpoint) as snapshot:
        assert set(snapshot.tensors) == {"a", "b", "c"}


def test_folder_with_one_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "any name.safetensors")
    with open_checkpoint(tmp_path) as snapshot:
        assert set(snapshot.tensors) == {"a"}


def test_links_to_files_of_any_name(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    save_file({"a": torch.ones(1)}, blob)
    (tmp_path / "model.safetensors").symlink_to(blob)
    for path in (tmp_path, blob):
        with open_checkpoint(path) as snapshot:
            assert set(snapshot.tensors) == {"a"}
            assert snapshot.metadata[METADATA_KEY]["files"] == ["model.safetensors"]


def test_the_opened_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with open_checkpoint(path) as snapshot:
        nbytes = path.stat().st_size
        path.unlink()
        assert snapshot.sources[0].nbytes == nbytes
        assert snapshot.tensors_at(0, 0, nbytes) == ["a"]


def test_recognizes(checkpoint: Path, tmp_path: Path) -> None:
    file = next(checkpoint.glob("*.safetensors"))
    head = file.read_bytes()[:16]
    blob = file.rename(tmp_path / "blob")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert recognizes(checkpoint, b"")
    assert recognizes(blob, head)
    assert recognizes(tmp_path / "missing.safetensors", b"")
    assert not recognizes(empty, b"")
    assert not recognizes(blob, b"\x89THAW\r\n\x1a\n" + bytes(8))
    assert not recognizes(blob, b'{"weight_map": {')
    assert not recognizes(blob, b"")
    (empty / INDEX).write_text("{}")
    assert recognizes(empty, b"")
