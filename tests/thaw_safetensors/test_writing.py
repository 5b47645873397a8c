"""What is written is what the safetensors library reads, byte for byte."""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from thaw_format import FileTarget, sealed
from thaw_safetensors import (
    DTYPES,
    INDEX_NAME,
    SINGLE_NAME,
    open_checkpoint,
    write_checkpoint,
    write_checkpoint_like,
)
from thaw_safetensors.part_file import write_part_file

NAMES = ("a.safetensors", "b.safetensors")


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def check_file(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    loaded = load_file(path)
    assert set(loaded) == set(expected)
    with safe_open(path, framework="pt") as file:
        for name, tensor in expected.items():
            for found in (loaded[name], file.get_tensor(name)):
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
                assert raw(found) == raw(tensor), name
    with open_checkpoint(path) as snapshot:
        assert set(snapshot.tensors) == set(expected)


def every_dtype() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    tensors = {}
    for name, dtype in DTYPES.items():
        data = torch.randint(0, 256, (3, 4 * dtype.itemsize), dtype=torch.uint8)
        tensors[f"{name}.random"] = data.view(dtype)
        tensors[f"{name}.empty"] = torch.empty(0, 2, dtype=dtype)
        if name != "F4":
            tensors[f"{name}.scalar"] = data.flatten()[: dtype.itemsize].clone().view(dtype)[0]
    return tensors


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_dtype(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert write_checkpoint(path, every_dtype()) == [path]
    check_file(path, every_dtype())
    save_file(every_dtype(), tmp_path / "y.safetensors")
    assert path.read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_views(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    odd = torch.arange(12, dtype=torch.uint8).view(torch.bool).view(3, 4)
    signalling = torch.tensor([0x7FA00001, 0x7FC12345] * 3, dtype=torch.int32).view(torch.float32)
    tensors = {
        "whole": base,
        "tied": base,
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "last": base[5, 7],
        "expanded": base[:1].expand(4, 8),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "nan": signalling.view(2, 3).t(),
        "nan half": signalling.view(torch.bfloat16)[::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {**tensors, "odd": odd.t()})
    found = load_file(path)
    words = found.pop("odd").view(torch.uint8)
    assert torch.equal(words, torch.arange(12, dtype=torch.uint8).view(3, 4).t())
    assert raw(found["nan"]) == raw(tensors["nan"].view(torch.int32))
    assert raw(found["nan half"]) == raw(tensors["nan half"].view(torch.int16))
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        assert raw(found[name]) == raw(tensor.detach()), name


def test_conjugates_are_written_as_their_values(tmp_path: Path) -> None:
    values = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"conj": values.conj(), "neg": values.conj().imag})
    found = load_file(path)
    assert found["conj"].tolist() == [1 - 2j, 3 + 4j]
    assert found["neg"].tolist() == [-2.0, 4.0]


def test_contiguous_tensors_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(4, 4)
    addresses = []
    write_from = FileTarget.write_from

    def kept(self: FileTarget, offset: int, buffers: Any) -> None:
        addresses.extend(map(ctypes.addressof, buffers))
        write_from(self, offset, buffers)

    monkeypatch.setattr(FileTarget, "write_from", kept)
    write_checkpoint(tmp_path / "x.safetensors", {"a": tensor, "b": tensor[2:]})
    assert addresses[1:] == [tensor.data_ptr(), tensor[2:].data_ptr()]


@pytest.mark.parametrize("piece_nbytes", [8, 24, 100, 1 << 20])
def test_values_are_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_nbytes: int
) -> None:
    monkeypatch.setattr("thaw_safetensors.dense.PIECE_NBYTES", piece_nbytes)
    base = torch.arange(240, dtype=torch.int16).view(4, 5, 12)
    tensors = {
        "whole": base,
        "back to front": base.permute(2, 1, 0),
        "rows": base[::2],
        "columns": base[:, :, 1::3],
        "expanded": base[:1, :1, :1].expand(3, 50, 2),
        "empty": base[:, :0],
        "scalar": base[1, 2, 3],
        "conjugate": torch.randn(6, 10, dtype=torch.complex64).t().conj(),
    }
    write_checkpoint(tmp_path / "x.safetensors", tensors)
    check_file(
        tmp_path / "x.safetensors",
        {name: tensor.resolve_conj().contiguous() for name, tensor in tensors.items()},
    )


def test_the_order_is_that_of_the_library(tmp_path: Path) -> None:
    """Names sort by code points, after the widths of the elements."""
    names = ("b", "a", "ä", "\U0001f600", "\uffff", "a.10", "a.9", "Z", "", '\x7f\x1f"\\/')
    tensors = {
        f"{name}{number}": torch.ones(number + 1, dtype=dtype)
        for name in names
        for number, dtype in enumerate((torch.int8, torch.float64, torch.bfloat16, torch.bool))
    }
    write_checkpoint(tmp_path / "x.safetensors", tensors, metadata={"x.safetensors": {"a": "ä"}})
    save_file(tensors, tmp_path / "y.safetensors", metadata={"a": "ä"})
    found = (tmp_path / "x.safetensors").read_bytes()
    assert found == (tmp_path / "y.safetensors").read_bytes()


def test_one_file_keeps_the_inode_that_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with sealed(path) as one:
        before = os.fstat(one.fileno())
        write_part_file(one, {"a": torch.arange(4)}, None)
        after = os.fstat(one.fileno())
        assert (after.st_ino, after.st_nlink) == (before.st_ino, 1)
        with sealed(path) as two:
            write_part_file(two, {"a": torch.arange(5)}, {"by": "two"})
        check_file(path, {"a": torch.arange(5)})
    check_file(path, {"a": torch.arange(4)})
    assert files_in(tmp_path) == {path.name}


def test_many_writers_of_one_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with ThreadPoolExecutor(8) as pool:
        values = list(range(24))
        list(pool.map(lambda v: write_checkpoint(path, {"a": torch.full((999,), v)}), values))
    assert len(set(load_file(path)["a"].tolist())) == 1
    assert files_in(tmp_path) == {path.name}


WITHOUT_THE_LIBRARY = """
import sys
sys.modules["safetensors"] = None
import torch, thaw
thaw.freeze({"w": torch.arange(6).view(2, 3).t()}, "m.thaw")
thaw.convert("m.thaw", "m.safetensors")
print(thaw.restore("m.safetensors")["w"].tolist())
"""


def test_the_library_is_not_needed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_THE_LIBRARY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[[0, 3], [1, 4], [2, 5]]\n", "")
    assert load_file(tmp_path / "m.safetensors")["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    for bad in ({"k": 1}, {1: "k"}, {"k": None}):
        with pytest.raises(TypeError, match="maps text to text"):
            write_checkpoint(
                tmp_path / "x.safetensors",
                {"a": torch.ones(1)},
                metadata={"x.safetensors": bad},  # type: ignore[dict-item]
            )
    assert not files_in(tmp_path)


def test_a_header_that_no_reader_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw_safetensors.part_file.MAX_HEADER_NBYTES", 100)
    tensors = {f"tensor.{number}": torch.ones(1) for number in range(5)}
    with pytest.raises(ValueError, match="folder of several files"):
        write_checkpoint(tmp_path / "x.safetensors", tensors)
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.zeros(1, dtype=torch.complex128), "complex128"),
        (torch.zeros(1, dtype=torch.complex32), "complex32"),
        (torch.zeros(1).to_sparse(), "strided"),
        (torch.zeros(1, device="meta"), "meta"),
        (torch.zeros(1, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)[0], "scalars"),
        ([1.0], "list"),
    ],
    ids=["complex128", "complex32", "sparse", "meta", "packed scalar", "list"],
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_cannot_be_written(tmp_path: Path, tensor: Any, match: str) -> None:
    for path in (tmp_path / "x.safetensors", tmp_path / "folder"):
        with pytest.raises(TypeError, match=f"'bad'.*{match}"):
            write_checkpoint(path, {"good": torch.ones(1), "bad": tensor})
    assert not files_in(tmp_path)


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="__metadata__"):
        write_checkpoint(path, {"__metadata__": torch.ones(1)})
    with pytest.raises(TypeError, match="not text"):
        write_checkpoint(path, {1: torch.ones(1)})  # type: ignore[dict-item]
    with pytest.raises(UnicodeError):
        write_checkpoint(path, {"\ud800": torch.ones(1)})
    assert not files_in(tmp_path)


def test_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.ones(1)})
    write_checkpoint(path, {"b": torch.ones(1)}, metadata={path.name: {"format": "pt"}})
    check_file(path, {"b": torch.ones(1)})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert files_in(tmp_path) == {path.name}


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for value in (1, 2):
        tensors = {"a": torch.full((2,), value)}
        assert write_checkpoint(folder, tensors) == [folder / SINGLE_NAME]
        check_file(folder / SINGLE_NAME, tensors)


def test_files(tmp_path: Path) -> None:
    tensors = {"x": torch.ones(3), "y": torch.arange(4), "z": torch.zeros(2)}
    files = {"x": NAMES[0], "y": NAMES[1], "z": NAMES[0]}
    written = write_checkpoint(
        tmp_path, tensors, files=files, metadata={NAMES[1]: {"format": "pt"}}
    )
    assert written == [tmp_path / NAMES[0], tmp_path / NAMES[1], tmp_path / INDEX_NAME]
    check_file(tmp_path / NAMES[0], {"x": tensors["x"], "z": tensors["z"]})
    check_file(tmp_path / NAMES[1], {"y": tensors["y"]})
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index == {"metadata": {"total_size": 52}, "weight_map": files}
    with open_checkpoint(tmp_path) as snapshot:
        assert set(snapshot.tensors) == set(tensors)


def test_one_file_of_a_given_name(tmp_path: Path) -> None:
    assert write_checkpoint(tmp_path, {"x": torch.ones(1)}, files={"x": NAMES[0]}) == [
        tmp_path / NAMES[0]
    ]


def test_max_shard_nbytes(tmp_path: Path) -> None:
    tensors = {name: torch.ones(n) for name, n in zip("abcde", (2, 2, 9, 0, 1), strict=True)}
    write_checkpoint(tmp_path, tensors, max_shard_nbytes=16)
    held = [
        set(load_file(tmp_path / f"model-{number:05d}-of-00003.safetensors"))
        for number in (1, 2, 3)
    ]
    assert held == [{"a", "b"}, {"c"}, {"d", "e"}]
    with open_checkpoint(tmp_path) as snapshot:
        assert set(snapshot.tensors) == set(tensors)
    assert write_checkpoint(tmp_path / "one", tensors, max_shard_nbytes=999) == [
        tmp_path / "one" / SINGLE_NAME
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"files": {"a": "../a.safetensors"}},
        {"files": {"a": "a.bin"}},
        {"files": {"a": NAMES[0], "b": NAMES[0]}},
        {"files": {}},
        {"files": {"a": NAMES[0]}, "max_shard_nbytes": 5},
        {"max_shard_nbytes": 0},
        {"metadata": {"other.safetensors": {}}},
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any]) -> None:
    for path in (tmp_path / "x.safetensors", tmp_path / "folder"):
        with pytest.raises(ValueError, match=r"\w"):
            write_checkpoint(path, {"a": torch.ones(1)}, **options)
    assert not files_in(tmp_path)


def test_one_file_takes_no_several(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="folder"):
        write_checkpoint(path, {"a": torch.ones(1)}, files={"a": NAMES[0]})
    with pytest.raises(ValueError, match="folder"):
        write_checkpoint(path, {"a": torch.ones(1)}, max_shard_nbytes=9)


def test_a_folder_with_another_checkpoint_is_left_alone(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(1), "b": torch.ones(2)}
    write_checkpoint(tmp_path, tensors, max_shard_nbytes=4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for options in ({}, {"max_shard_nbytes": 4}):
        with pytest.raises(FileExistsError, match="already holds"):
            write_checkpoint(tmp_path, tensors, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    write_from = FileTarget.write_from

    def failing(self: FileTarget, offset: int, buffers: Any) -> None:
        calls.append(offset)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_from(self, offset, buffers)

    monkeypatch.setattr(FileTarget, "write_from", failing)
    tensors = {"a": torch.ones(1), "b": torch.ones(2)}
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, tensors, max_shard_nbytes=4)
    assert not files_in(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_checkpoint(tmp_path / "missing" / "x.safetensors", {"a": torch.ones(1)})
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        write_checkpoint(tmp_path / "folder.safetensors", {"a": torch.ones(1)})


def copy_like(source: Path, destination: Path, leave: str | None = None) -> list[Path]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")) if source.is_dir() else [source]:
        tensors.update(load_file(file))
    tensors = {name: tensor for name, tensor in tensors.items() if name != leave}
    with open_checkpoint(source) as snapshot:
        return write_checkpoint_like(destination, tensors, snapshot.metadata)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def tensors_of_any_kind(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    rank = draw(st.integers(1 if dtype is torch.float4_e2m1fn_x2 else 0, 4))
    shape = draw(st.lists(st.integers(0, 4), min_size=rank, max_size=rank))
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= size
    data = draw(st.binary(min_size=nbytes, max_size=nbytes))
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).view(shape)


@settings(max_examples=60, deadline=None)
@given(
    tensors=st.dictionaries(
        TEXT.filter(lambda name: name != "__metadata__"), tensors_of_any_kind(), max_size=6
    ),
    metadata=st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
    limit=st.none() | st.integers(1, 200),
)
def test_roundtrip(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str] | None,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("roundtrip")
    single = folder / "x.safetensors"
    write_checkpoint(single, tensors, metadata=metadata and {single.name: metadata})
    check_file(single, tensors)
    with safe_open(single, framework="pt") as file:
        assert file.metadata() == (metadata or None)
    first, second = folder / "first", folder / "second"
    write_checkpoint(first, tensors, max_shard_nbytes=limit)
    copy_like(first, second)
    assert files_in(first) == files_in(second)
    for name in files_in(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()
