"""The reference: a whole shard to tensors and back, as plainly as it can be said."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch

from .checksum import crc32c, host_buffer
from .layout import Layout, layout_tensors, tensor_view
from .shard import open_shard
from .snapshot import Chunks
from .source import FileTarget
from .verification import verify_shard
from .writer import Description, write_shard


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read every tensor of a `.thaw` file to the CPU, after verifying all of it.

    Raises:
        FormatError: the file breaks a rule of the specification.
    """
    with open_shard(path) as shard:
        verify_shard(shard)
        memory = []
        for storage in shard.storages:
            memory.append(torch.empty(storage.nbytes, dtype=torch.uint8, device="cpu"))
            shard.sources[0].read_into(storage.offset, [host_buffer(memory[-1])])
        return {
            name: tensor_view(memory[spec.storage], spec, spec.offset)
            for name, spec in shard.tensors.items()
        }


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    description: Description | None = None,
) -> None:
    """Write tensors to a `.thaw` file.

    Raises:
        TypeError: a tensor cannot be stored.
        FormatError: a name or metadata cannot be said in the format.
        OSError: the file cannot be written; an existing one is untouched.
    """
    description = description or Description(producer={"name": "thaw_format", "version": "1.0"})
    write_shard(path, layout_tensors(tensors), description, _write_payload)


def _write_payload(target: FileTarget, layout: Layout, chunks: Chunks) -> Sequence[int]:
    payload = torch.zeros(chunks.nbytes, dtype=torch.uint8, device="cpu")
    for storage, memory in zip(layout.storages, layout.memory, strict=True):
        payload[storage.offset : storage.offset + storage.nbytes] = memory
    if chunks.nbytes:
        target.write_from(chunks.offset, [host_buffer(payload)])
    starts = range(0, chunks.nbytes, chunks.chunk_nbytes)
    return [crc32c(host_buffer(payload[start : start + chunks.chunk_nbytes])) for start in starts]
