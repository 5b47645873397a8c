"""The fingerprint of weights as they stand in memory (spec/sessions-1.0.md)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import torch
from thaw_format import dtype_name
from thaw_format.checksum import crc32c, host_buffer

from ...tensors.elements import bytes_of

PIECE_NBYTES = 4 << 20

_log = logging.getLogger("vllm.thaw")


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest weights: the SHA-256 of their names, dtypes, shapes and the CRC32C of their pieces.

    Args:
        tensors: plain tensors by name, on any devices; those of CUDA are digested where they are.

    Returns:
        64 hexadecimal digits, the same for the same bits wherever they lie.
    """
    flat = {name: bytes_of(tensor) for name, tensor in tensors.items()}
    pieces: dict[tuple[int, int], list[int]] = {}
    for device in {memory.device for memory in flat.values()}:
        there = {(each.data_ptr(), len(each)): each for each in flat.values()}
        _digest([each for each in there.values() if each.device == device], device, pieces)
    said = hashlib.sha256()
    for name in sorted(tensors):
        tensor, memory = tensors[name], flat[name]
        crcs = pieces[memory.data_ptr(), len(memory)] if len(memory) else []
        line = [name, dtype_name(tensor.dtype), list(tensor.shape), crcs]
        said.update(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return said.hexdigest()


def _digest(
    memory: Iterable[torch.Tensor],
    device: torch.device,
    pieces: dict[tuple[int, int], list[int]],
) -> None:
    found = [each for each in memory if len(each)]
    cut = [piece for each in found for piece in each.split(PIECE_NBYTES)]
    values = iter(_crcs(cut, device))
    for each in found:
        count = -(-len(each) // PIECE_NBYTES)
        pieces[each.data_ptr(), len(each)] = [next(values) for _ in range(count)]


def _crcs(pieces: list[torch.Tensor], device: torch.device) -> list[int]:
    """Compute the CRC32C of each piece, on the device that has them."""
    if device.type == "cuda" and find_spec("cupy") is not None:
        from ...cuda.digests import DeviceDigests

        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        runs = [((piece.data_ptr(), len(piece)),) for piece in pieces]
        return DeviceDigests(device).start(runs, stream.cuda_stream).values()
    if device.type != "cpu":
        _log.warning("CuPy is not installed: weights are copied to the host to be digested")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thaw-fingerprint") as pool:
        return list(pool.map(lambda piece: crc32c(host_buffer(piece.cpu())), pieces))
