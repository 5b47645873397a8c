"""What a request of the native backend refuses when it is made, before a byte moves."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("thaw_native")
from thaw_native import _native

SETTINGS = _native.Settings(1, 4096, 4096, 1, "buffered", True)
ON_THE_HOST = _native.Settings(1, 4096, 4096, 1, "buffered", False)


def columns(*extents: tuple[int, int, int]) -> tuple[array[int], ...]:
    """Put offsets, addresses and sizes in columns."""
    return tuple(array("q", (each[i] for each in extents)) for i in range(3))


FILE = (0, 4096, columns((0, 0, 4096)))
CHUNKS = (0, 4096, 4096)
DEVICE = (0, b"")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"files": []}, "single file"),
        ({"files": [FILE, FILE], "digests": (CHUNKS, [0])}, "single file"),
        ({"files": [FILE, FILE], "device": DEVICE, "pinned": 4096}, "single file"),
        ({"digests": (CHUNKS, [])}, "one digest a chunk"),
        ({"digests": (CHUNKS, [0, 0])}, "one digest a chunk"),
        ({"digests": ((0, 4096, 0), [0])}, "power of two"),
        ({"digests": ((0, 4096, 2048), [0, 0])}, "power of two"),
        ({"digests": ((0, 4096, 5000), [0])}, "power of two"),
        ({"pinned": 4096}, "from the file itself"),
        (
            {"device": DEVICE, "pinned": 4096, "digests": (CHUNKS, [0]), "settings": ON_THE_HOST},
            "checked on the device",
        ),
    ],
)
def test_a_read_that_makes_no_sense(asked: Mapping[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"files": [FILE], "settings": SETTINGS, **asked}
    with pytest.raises(ValueError, match=message):
        _native.ReadRequest(**whole)


def test_a_write_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="power of two"):
        _native.WriteRequest(fd=0, extents=columns(), chunks=(0, 4096, 5000), settings=SETTINGS)


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ((0, 4096, columns((-1, 0, 1))), ValueError),
        ((0, -1, columns()), OverflowError),
        ((1 << 40, 0, columns()), OverflowError),
        (("a name", 0, columns()), TypeError),
        ((0, 4096, columns((0, 0, 1))[:2]), ValueError),
        ((0, 4096, ([0], [0], [1])), TypeError),
        ((0, 4096, (array("i", [0]),) * 3), BufferError),
        ((0, 4096, (array("q", [0, 1]), array("q", [0]), array("q", [1]))), ValueError),
    ],
)
def test_numbers_that_are_none_of_a_file(file: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _native.ReadRequest(files=[file], settings=SETTINGS)


def test_offsets_that_overflow(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with (tmp_path / "a").open("rb") as file:
        files = [(file.fileno(), (1 << 64) - 1, columns())] * 2
        request = _native.ReadRequest(files=files, settings=SETTINGS)
        with pytest.raises(ValueError, match=r"beyond 2\^64"):
            _native.read(request)


def test_a_request_is_made_by_name_alone_and_serves_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 16)
    memory = ctypes.create_string_buffer(4096)
    with (tmp_path / "a").open("rb") as file:
        files = [(file.fileno(), 4096, columns((0, ctypes.addressof(memory), 4096)))]
        with pytest.raises(TypeError, match="positional"):
            _native.ReadRequest(files, SETTINGS)  # type: ignore[misc]
        request = _native.ReadRequest(files=files, settings=SETTINGS)
        for _ in range(2):
            ctypes.memset(memory, 0, 4096)
            moved: list[int] = []
            assert _native.read(request, moved.append) == ("buffered", 0)
            assert (memory.raw, sum(moved)) == (bytes(range(256)) * 16, 4096)


@pytest.mark.parametrize("fd", [-1, 1 << 30])
def test_a_descriptor_that_is_none(fd: int) -> None:
    memory = ctypes.create_string_buffer(4096)
    extents = columns((0, ctypes.addressof(memory), 4096))
    read = _native.ReadRequest(files=[(fd, 4096, extents)], settings=SETTINGS)
    with pytest.raises(_native.NativeError) as raised:
        _native.read(read)
    assert raised.value.args[0] == "io" and "Bad file descriptor" in raised.value.args[1]
    write = _native.WriteRequest(fd=fd, extents=extents, chunks=CHUNKS, settings=SETTINGS)
    with pytest.raises(_native.NativeError) as raised:
        _native.write(write)
    assert raised.value.args[0] == "io" and "Bad file descriptor" in raised.value.args[1]
