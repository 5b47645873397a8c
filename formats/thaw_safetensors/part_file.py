"""One `.safetensors` file: its header, and where each tensor's bytes go."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from thaw_format import FileTarget, TensorSpec
from thaw_format.checksum import host_buffer

from .dense import check_storable, dense_pieces, spec_of
from .dtypes import ALIGNED, NAMES, PACKED
from .header import LENGTH, MAX_HEADER_NBYTES, METADATA_MEMBER

_ALIGNMENT = 8


def write_part_file(
    target: FileTarget, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> None:
    """Write tensors to a file that is being made, header and values.

    Raises:
        TypeError: a tensor has an element type that the format lacks, or no plain memory.
        ValueError: the header is longer than readers allow.
        OSError: the file cannot be written.
    """
    specs = {name: spec_of(name, tensor) for name, tensor in tensors.items()}
    check_storable(specs)
    for name, start in write_header(target, specs, metadata).items():
        write_values(target, start, tensors[name])


def write_header(
    target: FileTarget, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None
) -> dict[str, int]:
    """Write the header of a file that holds these tensors.

    Tensors lie as the safetensors library lays them: those of wide elements first, then by name.

    Returns:
        For each name the offset in the file of its bytes.

    Raises:
        TypeError: metadata is not text.
        ValueError: the header is longer than readers allow.
        OSError: the file cannot be written.
    """
    _check_texts(metadata or {})
    members: dict[str, Any] = {} if metadata is None else {METADATA_MEMBER: dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(specs, key=lambda name: (-ALIGNED[specs[name].dtype_name], name)):
        starts[name] = end
        end += specs[name].nbytes
        members[name] = _member(specs[name], starts[name], end)
    header = _serialize(members)
    os.ftruncate(target.fileno(), len(header) + end)
    _write(target, 0, torch.frombuffer(header, dtype=torch.uint8))
    return {name: len(header) + start for name, start in starts.items()}


def write_values(target: FileTarget, offset: int, tensor: torch.Tensor) -> None:
    """Write the elements of a tensor, in index order, from an offset of a file."""
    for piece in dense_pieces(tensor):
        _write(target, offset, piece)
        offset += piece.numel()


def _check_texts(metadata: Mapping[str, str]) -> None:
    for key, text in metadata.items():
        if not (isinstance(key, str) and isinstance(text, str)):
            raise TypeError(f"metadata {key!r} is {text!r}; the format maps text to text")


def _write(target: FileTarget, offset: int, memory: torch.Tensor) -> None:
    target.write_from(offset, [host_buffer(memory)])


def _member(spec: TensorSpec, start: int, end: int) -> dict[str, Any]:
    shape = list(spec.shape)
    if spec.dtype_name == PACKED:
        # The format counts packed elements one by one, torch in pairs.
        shape[-1] *= 2
    return {"dtype": NAMES[spec.dtype_name], "shape": shape, "data_offsets": [start, end]}


def _serialize(members: Mapping[str, Any]) -> bytearray:
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_NBYTES:
        raise ValueError(
            f"the header would have {len(text)} bytes, readers take {MAX_HEADER_NBYTES}: write to "
            "a folder of several files"
        )
    return bytearray(LENGTH.pack(len(text)) + text)
