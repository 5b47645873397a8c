"""The header of a `.safetensors` file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thaw_format import FormatError, Source
from thaw_format.dtypes import ITEMSIZES

from .dtypes import torch_shape, word_of
from .errors import checkpoint_error
from .json_object import parse_object

MAX_HEADER_NBYTES = 100_000_000
METADATA_MEMBER = "__metadata__"
_HEAD_NBYTES = 4096
_PICKLES = "thaw reads no pickles; save it again with safetensors.torch.save_file"
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
    (b"<", "an HTML or XML page; download the file again, with a login if it needs one"),
    (b"{", "JSON text; an index is known by a name that ends in .safetensors.index.json"),
    (b"PK\x03\x04", f"a zip archive, as torch.save writes them; {_PICKLES}"),
    (b"\x80\x02", f"a pickle; {_PICKLES}"),
    (b"GGUF", "a GGUF file"),
)
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: `start` and `end` are absolute offsets, `shape` is torch's.

    Attributes:
        dtype: in the words of the `.thaw` format.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file in the order of their offsets, and its `__metadata__`."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str] | None


def read_header(source: Source) -> Header:
    """Read and check the header of a file.

    Raises:
        FormatError: the file is truncated, or its header is malformed or contradicts its size.
    """
    nbytes = _header_nbytes(source)
    raw = source.read(LENGTH.size, nbytes)
    if len(raw) != nbytes:
        raise checkpoint_error("safetensors-truncated", "the file ended while it was read")
    if raw[:1] != b"{":
        raise checkpoint_error(
            "safetensors-json", "the header does not begin with '{'", offset=LENGTH.size
        )
    members = parse_object(raw)
    metadata = _parse_metadata(members.pop(METADATA_MEMBER, None))
    start = LENGTH.size + nbytes
    entries = [_parse_entry(name, raw, start) for name, raw in members.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_coverage(entries, start, source.nbytes)
    return Header(tuple(entries), metadata)


def _header_nbytes(source: Source) -> int:
    raw = source.read(0, LENGTH.size)
    if len(raw) < LENGTH.size:
        raise checkpoint_error(
            "safetensors-truncated",
            f"the file has {source.nbytes} bytes, too few for a safetensors header",
        )
    nbytes: int = LENGTH.unpack(raw)[0]
    if nbytes > MAX_HEADER_NBYTES:
        _refuse_stranger(source)
    if nbytes > MAX_HEADER_NBYTES:
        raise checkpoint_error(
            "safetensors-header-length",
            f"the header's length is {nbytes}; at most {MAX_HEADER_NBYTES} bytes are allowed",
            offset=0,
        )
    if nbytes > source.nbytes - LENGTH.size:
        raise checkpoint_error(
            "safetensors-truncated",
            f"the header has {nbytes} bytes, the file {source.nbytes}",
            offset=source.nbytes,
        )
    return nbytes


def _refuse_stranger(source: Source) -> None:
    """Say what a file is that begins with no length of a header."""
    head = source.read(0, _HEAD_NBYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what in _STRANGERS:
        if head.startswith(beginning):
            raise checkpoint_error(
                "safetensors-header-length", f"is no .safetensors file but {what}", offset=0
            )


def _parse_metadata(raw: Any) -> dict[str, str] | None:
    if raw is None:
        return None
    if type(raw) is not dict or not all(type(value) is str for value in raw.values()):
        raise checkpoint_error("safetensors-member", f"{METADATA_MEMBER} maps not text to text")
    return raw


def _parse_entry(name: str, raw: Any, base: int) -> Entry:
    if type(raw) is not dict or type(raw.get("dtype")) is not str:
        raise _bad_tensor(name, "has no element type")
    shape: Any = raw.get("shape")
    offsets: Any = raw.get("data_offsets")
    if not _are_sizes(shape):
        raise _bad_tensor(name, "has no shape of integers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad_tensor(name, "has no two data offsets")
    dtype = word_of(raw["dtype"], name)
    sizes = torch_shape(dtype, tuple(shape), name)
    entry = Entry(name, dtype, sizes, base + offsets[0], base + offsets[1])
    _check_size(entry)
    return entry


def _are_sizes(raw: Any) -> bool:
    return type(raw) is list and all(type(size) is int and size >= 0 for size in raw)


def _check_size(entry: Entry) -> None:
    expected = ITEMSIZES[entry.dtype]
    for size in entry.shape:
        expected *= size
    if entry.end - entry.start != expected:
        raise checkpoint_error(
            "safetensors-size",
            f"tensor {entry.name[:200]!r} of {entry.dtype} and shape {list(entry.shape)} needs "
            f"{expected} bytes, its data offsets span {entry.end - entry.start}",
        )


def _check_coverage(entries: list[Entry], start: int, nbytes: int) -> None:
    end = start
    for entry in entries:
        if entry.start != end:
            what = "hole" if entry.start > end else "overlap"
            raise checkpoint_error(
                f"safetensors-{what}",
                f"tensor {entry.name[:200]!r} begins at byte {entry.start}, "
                f"the one before it ends at {end}",
                offset=min(entry.start, end),
            )
        end = entry.end
    if end > nbytes:
        raise checkpoint_error(
            "safetensors-truncated",
            f"tensors reach to byte {end}, the file has {nbytes}",
            offset=nbytes,
        )
    if end < nbytes:
        raise checkpoint_error(
            "safetensors-trailing-bytes",
            f"tensors end at byte {end}, the file has {nbytes}",
            offset=end,
        )


def _bad_tensor(name: str, what: str) -> FormatError:
    return checkpoint_error("safetensors-member", f"tensor {name[:200]!r} {what}")
