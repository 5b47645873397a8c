"""Malformed checkpoints are rejected, each with its own code."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from thaw_format import FormatError, LayoutError, ManifestError, TruncatedError
from thaw_safetensors import CODES, open_checkpoint

INDEX = "model.safetensors.index.json"
SERIES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def whole(header: Any, nbytes: int = 0) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(nbytes)


def twice() -> bytes:
    text = json.dumps(entry("U8", [1], 0, 1))
    return whole(f'{{"a":{text},"a":{text}}}'.encode(), 1)


FOUR = entry("U8", [4], 0, 4)
REJECTED_BY_THE_LIBRARY_TOO = {
    "empty file": (b"", "safetensors-truncated"),
    "short length": (b"\2\0\0", "safetensors-truncated"),
    "header cut": (whole({"a": FOUR}, 4)[:20], "safetensors-truncated"),
    "data cut": (whole({"a": FOUR}, 3), "safetensors-truncated"),
    "no data": (whole({"a": FOUR}, 0), "safetensors-truncated"),
    "length beyond the file": (struct.pack("<Q", 90_000_000) + b"{}", "safetensors-truncated"),
    "length over the limit": (struct.pack("<Q", 10**8 + 1) + b"{}", "safetensors-header-length"),
    "endless length": (b"\xff" * 8 + b"{}", "safetensors-header-length"),
    "length zero": (bytes(8), "safetensors-json"),
    "not JSON": (whole(b"{nothing"), "safetensors-json"),
    "an array": (whole(b"[]"), "safetensors-json"),
    "a byte order mark": (whole(b"\xef\xbb\xbf{}"), "safetensors-json"),
    "not UTF-8": (whole(b'{"\xff":1}'), "safetensors-json"),
    "a zero byte": (whole(b"{}\0"), "safetensors-json"),
    "two values": (whole(b"{}{}"), "safetensors-json"),
    "a constant": (whole(b'{"a":NaN}'), "safetensors-json"),
    "a lone surrogate": (whole(b'{"__metadata__":{"a":"\\ud800"}}'), "safetensors-json"),
    "deep nesting": (whole(b'{"a":' * 10**5), "safetensors-json"),
    "a long number": (whole(b'{"a":%s}' % (b"1" * 5000)), "safetensors-json"),
    "metadata of numbers": (whole({"__metadata__": {"a": 1}}), "safetensors-member"),
    "metadata as text": (whole({"__metadata__": "a"}), "safetensors-member"),
    "a tensor as list": (whole({"a": []}), "safetensors-member"),
    "a tensor as null": (whole({"a": None}), "safetensors-member"),
    "no dtype": (whole({"a": {"shape": [], "data_offsets": [0, 1]}}, 1), "safetensors-member"),
    "no shape": (whole({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1), "safetensors-member"),
    "no offsets": (whole({"a": {"dtype": "U8", "shape": [1]}}, 1), "safetensors-member"),
    "a float size": (whole({"a": entry("U8", [4.0], 0, 4)}, 4), "safetensors-member"),
    "a negative size": (whole({"a": entry("U8", [-4], 0, 4)}, 4), "safetensors-member"),
    "a truth value": (whole({"a": entry("U8", [True], 0, 1)}, 1), "safetensors-member"),
    "a negative offset": (whole({"a": entry("U8", [4], -4, 0)}, 4), "safetensors-member"),
    "unknown dtype": (whole({"a": entry("F7", [4], 0, 4)}, 4), "safetensors-dtype"),
    "size differs": (whole({"a": entry("U8", [4], 0, 3)}, 3), "safetensors-size"),
    "backward offsets": (whole({"a": entry("U8", [4], 4, 0)}, 4), "safetensors-size"),
    "sizes overflow": (whole({"a": entry("U8", [2**62, 8], 0, 0)}), "safetensors-shape"),
    "half a byte": (whole({"a": entry("F4", [3], 0, 2)}, 2), "safetensors-shape"),
    "a packed scalar": (whole({"a": entry("F4", [], 0, 1)}, 1), "safetensors-shape"),
    "hole": (whole({"a": FOUR, "b": entry("U8", [4], 5, 9)}, 9), "safetensors-hole"),
    "hole at the start": (whole({"b": entry("U8", [4], 1, 5)}, 5), "safetensors-hole"),
    "overlap": (whole({"a": FOUR, "b": entry("U8", [4], 2, 6)}, 6), "safetensors-overlap"),
    "shared": (whole({"a": FOUR, "b": FOUR}, 4), "safetensors-overlap"),
    "an empty one inside": (
        whole({"a": FOUR, "b": entry("U8", [0], 2, 2)}, 4),
        "safetensors-overlap",
    ),
    "out of bounds": (
        whole({"a": FOUR, "b": entry("U8", [2**40], 4, 4 + 2**40)}, 4),
        "safetensors-truncated",
    ),
    "trailing bytes": (whole({"a": FOUR}, 5), "safetensors-trailing-bytes"),
    "data without tensors": (whole({}, 1), "safetensors-trailing-bytes"),
}
REJECTED_BEYOND_THE_LIBRARY = {
    "twice": (twice(), "safetensors-duplicate-key"),
    "a leading space": (whole(b" {}"), "safetensors-json"),
    "no dtype of torch": (whole({"a": entry("F6_E2M3", [4], 0, 3)}, 3), "safetensors-dtype"),
    "odd packed rows": (whole({"a": entry("F4", [2, 3], 0, 3)}, 3), "safetensors-shape"),
    "empty but endless": (whole({"a": entry("U8", [0, 2**63], 0, 0)}), "safetensors-shape"),
}
STRANGERS = {
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"<!DOCTYPE html>\n<html>": "an HTML or XML page; download the file again",
    b"\n\n  <html lang=en>": "an HTML or XML page",
    b"\xef\xbb\xbf<?xml version": "an HTML or XML page",
    b'{"weight_map": {"a": "b"}}': r"an index is known by a name that ends in \.safetensors\.index",
    b"PK\x03\x04" + bytes(range(60, 90)): "thaw reads no pickles",
    b"\x80\x02}q\x00(X\x02\x00": "thaw reads no pickles",
    b"GGUF\x03\x00\x00\x00\x01\x00": "a GGUF file",
}


def check_rejected(path: Path, data: bytes, code: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CODES[code]) as caught:
        open_checkpoint(path)
    assert (caught.value.code, caught.value.rule) == (code, None)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REJECTED_BY_THE_LIBRARY_TOO)
def test_bad_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    check_rejected(path, *REJECTED_BY_THE_LIBRARY_TOO[name])
    with pytest.raises(SafetensorError):
        safe_open(path, framework="pt").__enter__()


@pytest.mark.parametrize("name", REJECTED_BEYOND_THE_LIBRARY)
def test_bad_file_that_the_library_may_take(tmp_path: Path, name: str) -> None:
    check_rejected(tmp_path / "x.safetensors", *REJECTED_BEYOND_THE_LIBRARY[name])


@pytest.mark.parametrize("data", STRANGERS)
def test_a_file_of_another_kind_is_said_to_be_that(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    check_rejected(path, data, "safetensors-header-length")
    with pytest.raises(LayoutError, match=STRANGERS[data]):
        open_checkpoint(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(3), "b": torch.ones(2)}, path)
    data = path.read_bytes()
    for nbytes in range(len(data)):
        path.write_bytes(data[:nbytes])
        with pytest.raises(TruncatedError):
            open_checkpoint(path)


def test_a_long_header_is_not_read_before_it_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, nbytes: int, offset: int) -> bytes:
        reads.append(nbytes)
        return pread(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", counted)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 99_999_999) + b"{}" + bytes(100))
    with pytest.raises(TruncatedError):
        open_checkpoint(path)
    assert max(reads) < 100


def test_pipe(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    os.mkfifo(path)
    for each in (path, tmp_path):
        with pytest.raises(FormatError, match="pipe") as caught:
            open_checkpoint(each)
        assert caught.value.code == "not-a-file"


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "x.safetensors")


def make_series(folder: Path) -> dict[str, str]:
    save_file({"a": torch.ones(1)}, folder / SERIES[0])
    save_file({"b": torch.ones(2)}, folder / SERIES[1])
    return {"a": SERIES[0], "b": SERIES[1]}


def check_folder(folder: Path, code: str, match: str | None = None) -> FormatError:
    with pytest.raises(CODES[code], match=match) as caught:
        open_checkpoint(folder)
    assert caught.value.code == code
    assert caught.value.path is not None
    return caught.value


def check_index(
    folder: Path, text: str | dict[str, Any], code: str, match: str | None = None
) -> None:
    text = text if isinstance(text, str) else json.dumps(text)
    (folder / INDEX).write_text(text)
    assert check_folder(folder, code, match).path == str(folder / INDEX)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path, "safetensors-missing-file")


@pytest.mark.parametrize("index", [True, False])
def test_missing_shard(tmp_path: Path, index: bool) -> None:
    weight_map = make_series(tmp_path)
    (tmp_path / SERIES[1]).unlink()
    if index:
        check_index(tmp_path, {"weight_map": weight_map}, "safetensors-missing-file", SERIES[1])
    else:
        check_folder(tmp_path, "safetensors-missing-file", "1 of the 2")


def test_dangling_link(tmp_path: Path) -> None:
    weight_map = make_series(tmp_path)
    (tmp_path / SERIES[1]).unlink()
    (tmp_path / SERIES[1]).symlink_to(tmp_path / "nowhere")
    check_index(tmp_path, {"weight_map": weight_map}, "safetensors-missing-file")


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        ".",
        "",
        ".hidden.safetensors",
        "model.bin",
        "zero\0.safetensors",
    ],
)
def test_file_names_with_tricks(tmp_path: Path, file: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    check_index(folder, {"weight_map": {"a": file}}, "safetensors-file-name")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "safetensors-json"),
        ("[]", "safetensors-json"),
        ('{"weight_map":{"a":"x","a":"x"}}', "safetensors-duplicate-key"),
        ("{}", "safetensors-index"),
        ('{"weight_map":{}}', "safetensors-index"),
        ('{"weight_map":[]}', "safetensors-index"),
        ('{"weight_map":{"a":1}}', "safetensors-index"),
    ],
)
def test_bad_index(tmp_path: Path, text: str, code: str) -> None:
    make_series(tmp_path)
    check_index(tmp_path, text, code)


Change = Callable[[dict[str, str]], object]


def test_an_index_that_says_another_file_than_the_one_that_has_a_tensor(tmp_path: Path) -> None:
    make_series(tmp_path)
    weight_map = {"a": SERIES[1], "b": SERIES[1]}
    match = f"'a' is not in {SERIES[1]} but in {SERIES[0]}"
    save_file({"a": torch.ones(1), "c": torch.ones(1)}, tmp_path / SERIES[0])
    weight_map["c"] = SERIES[0]
    check_index(tmp_path, {"weight_map": weight_map}, "safetensors-index", match)


def test_a_file_with_nothing_of_what_the_index_lists_for_it(tmp_path: Path) -> None:
    weight_map = make_series(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / SERIES[1])
    match = f"{SERIES[1]} has none of the tensors"
    check_index(tmp_path, {"weight_map": weight_map}, "safetensors-index", match)


def test_names_that_repeat(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / SERIES[0])
    save_file({"a": torch.ones(1)}, tmp_path / SERIES[1])
    error = check_folder(tmp_path, "safetensors-duplicate-name", f"{SERIES[0]} too")
    assert error.path == str(tmp_path / SERIES[1])


def test_several_indexes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    check_folder(tmp_path, "safetensors-several-indexes")


def test_a_bad_shard_is_named(tmp_path: Path) -> None:
    make_series(tmp_path)
    (tmp_path / SERIES[1]).write_bytes(b"")
    assert check_folder(tmp_path, "safetensors-truncated").path == str(tmp_path / SERIES[1])


def test_families() -> None:
    assert set(CODES.values()) <= {LayoutError, ManifestError, TruncatedError}
    assert all(code.startswith("safetensors-") for code in CODES)


def test_failing_to_open_closes_the_files(tmp_path: Path) -> None:
    make_series(tmp_path)
    (tmp_path / SERIES[1]).write_bytes(b"")
    before = set(os.listdir("/proc/self/fd"))
    check_folder(tmp_path, "safetensors-truncated")
    assert set(os.listdir("/proc/self/fd")) == before
