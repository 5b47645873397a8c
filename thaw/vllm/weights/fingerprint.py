"""The fingerprint of weights as they stand in memory (spec/sessions-1.0.md)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from thaw_format import dtype_name
from thaw_format.checksum import crc32c, host_buffer
from torch import nn

from ...errors import MismatchError
from ...tensors.elements import bytes_of
from .state import ModelState, take_state

PIECE_NBYTES = 4 << 20
_LORA = re.compile(r"(^|\.)(lora_|punica_wrapper)")
_WRAPPED = ".base_layer"
"""What vLLM puts into the names of weights that an adapter may join."""


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest weights: the SHA-256 of their names, dtypes, shapes and the CRC32C of their pieces.

    Args:
        tensors: plain tensors by name, on any devices; those of CUDA are digested where they are.

    Returns:
        64 hexadecimal digits, the same for the same bits wherever they lie.
    """
    crcs = _crcs_of({name: each for name, each in tensors.items() if each.is_contiguous()})
    for name, tensor in tensors.items():
        if name not in crcs:
            # One by one: what is not contiguous is copied, and there may be no room for all.
            crcs |= _crcs_of({name: tensor})
    said = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        line = [name, dtype_name(tensor.dtype), list(tensor.shape), crcs[name]]
        said.update(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return said.hexdigest()


def _crcs_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Compute the CRC32C of the pieces of each tensor; those of a device all at once."""
    cut = {
        name: torch.split(memory, PIECE_NBYTES) if len(memory := bytes_of(tensor)) else ()
        for name, tensor in tensors.items()
    }
    crcs: dict[str, list[int]] = {}
    for device in {tensor.device for tensor in tensors.values()}:
        there = {name: pieces for name, pieces in cut.items() if tensors[name].device == device}
        values = iter(_crcs([piece for pieces in there.values() for piece in pieces], device))
        crcs |= {name: [next(values) for _ in pieces] for name, pieces in there.items()}
    return crcs


def _crcs(pieces: Sequence[torch.Tensor], device: torch.device) -> list[int]:
    """Compute the CRC32C of each piece, on the device that has them."""
    if device.type == "cuda":
        from ...cuda.digests import DeviceDigests

        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        runs = [((piece.data_ptr(), len(piece)),) for piece in pieces]
        return DeviceDigests(device).start(runs, stream.cuda_stream).values()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thaw-fingerprint") as pool:
        return list(pool.map(lambda piece: crc32c(host_buffer(piece.cpu())), pieces))


_noted: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Fingerprints of weights as they were before a library took them into memory of its own."""


def fingerprint_of(model: nn.Module) -> str:
    """Digest the weights of a vLLM model as they stand on this rank.

    Adapters are left out: they come and go, and sessions name theirs.

    Raises:
        MismatchError: a library keeps weights where they cannot be read.
    """
    state = take_state(model)
    if not state.is_readable:
        if model not in _noted:
            raise MismatchError(
                "this engine packed weights into memory of oneDNN, where they cannot be digested"
            )
        return _noted[model]
    return fingerprint(_own(state))


def note_fingerprint(model: nn.Module) -> None:
    """Digest the weights of a model now, for a time when they cannot be read any more."""
    _noted[model] = fingerprint(_own(take_state(model)))


def forget_fingerprint(model: nn.Module) -> None:
    """Forget what was noted of a model: its weights are about to be others."""
    _noted.pop(model, None)


@contextmanager
def noting_fingerprint(loader: Any, vllm_config: Any) -> Iterator[None]:
    """Note the fingerprint of what a loader loads in a block, where it may not be readable later.

    On a CPU vLLM has a library pack weights, right after they were loaded.
    """
    if vllm_config.kv_transfer_config is None or vllm_config.device_config.device_type != "cpu":
        yield
        return
    load = loader.load_weights

    def loading(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(model, *args, **kwargs)
        note_fingerprint(model)
        return result

    loader.load_weights = loading
    try:
        yield
    finally:
        del loader.load_weights


def _own(state: ModelState) -> dict[str, torch.Tensor]:
    return {
        name.replace(_WRAPPED, ""): tensor
        for name, tensor in state.tensors.items()
        if not _LORA.search(name)
    }
