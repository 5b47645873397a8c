"""The tensors of the line-rate benchmark, made from a seed so that any process can check."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import torch

Shapes: TypeAlias = dict[str, tuple[int, ...]]

FULL_NBYTES = 16_060_522_496
SHARDS = 4
_SEED = 20_240_723
_PIECE_NBYTES = 16 << 20
_VOCABULARY, _HIDDEN, _FEED_FORWARD, _KEYS, _LAYERS = 128_256, 4096, 14_336, 1024, 32


def llama(nbytes: int = FULL_NBYTES) -> Shapes:
    """Return the 291 shapes of Llama-3.1-8B in bf16, narrowed to about `nbytes` in all."""
    scale = math.sqrt(nbytes / FULL_NBYTES)

    def narrowed(size: int) -> int:
        return max(4, round(size * scale / 4) * 4)

    vocabulary, hidden, wide, keys = map(narrowed, (_VOCABULARY, _HIDDEN, _FEED_FORWARD, _KEYS))
    layer: Shapes = {
        "input_layernorm.weight": (hidden,),
        "mlp.down_proj.weight": (hidden, wide),
        "mlp.gate_proj.weight": (wide, hidden),
        "mlp.up_proj.weight": (wide, hidden),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
    }
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for index in range(_LAYERS):
        for name, shape in layer.items():
            shapes[f"model.layers.{index}.{name}"] = shape
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def split(count: int, nbytes: int) -> Shapes:
    """Return `count` shapes of `nbytes` in all; the last one takes what is left over."""
    each, rest = divmod(nbytes // 2, count)
    sizes = [each] * (count - 1) + [each + rest]
    return {f"layers.{i // 100}.block.{i % 100}.weight": (n,) for i, n in enumerate(sizes)}


def total_nbytes(shapes: Shapes) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def allocate(shapes: Shapes, device: torch.device) -> dict[str, torch.Tensor]:
    """Make tensors of zeros."""
    return {
        name: torch.zeros(shape, dtype=torch.bfloat16, device=device)
        for name, shape in shapes.items()
    }


def make(shapes: Shapes, device: torch.device) -> dict[str, torch.Tensor]:
    """Make the tensors; every bit pattern occurs, NaNs too."""
    tensors = allocate(shapes, device)
    generator = torch.Generator(device)
    for index, tensor in enumerate(tensors.values()):
        _fill(tensor, index, generator)
    return tensors


def problems(found: Mapping[str, torch.Tensor], shapes: Shapes, device: torch.device) -> list[str]:
    """Say how tensors differ from those that the seed gives; an empty list means not at all."""
    if found.keys() != shapes.keys():
        return [f"{len(found.keys() ^ shapes.keys())} names are on one side only"]
    generator = torch.Generator(device)
    differing = []
    for index, (name, shape) in enumerate(shapes.items()):
        tensor = found[name]
        expected = torch.empty(shape, dtype=torch.bfloat16, device=device)
        _fill(expected, index, generator)
        if tensor.dtype != expected.dtype or tensor.shape != expected.shape:
            differing.append(f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
        elif not torch.equal(tensor.view(torch.int16), expected.view(torch.int16)):
            differing.append(f"{name} has other bytes")
    return differing


def spoil(tensors: Mapping[str, torch.Tensor]) -> None:
    """Zero tensors, so that memory which is used again cannot pass for restored."""
    for tensor in tensors.values():
        tensor.zero_()


def _fill(tensor: torch.Tensor, index: int, generator: torch.Generator) -> None:
    generator.manual_seed(_SEED + index)
    tensor.view(torch.int16).random_(-(1 << 15), 1 << 15, generator=generator)


def write_checkpoint(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a sharded .safetensors checkpoint with its index, by several threads.

    Tensors are asked for one shard after the other, so that a mapping may make them then.
    """
    folder.mkdir(parents=True)
    names, each, index, total = list(tensors), -(-len(tensors) // SHARDS), {}, 0
    for number in range(SHARDS):
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[number * each : (number + 1) * each]
        total += _write_shard({name: tensors[name] for name in part}, folder / file)
        index.update(dict.fromkeys(part, file))
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def shard_views(buffer: torch.Tensor, path: Path) -> dict[str, torch.Tensor]:
    """View the tensors of a .safetensors file whose bytes lie in a buffer."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    views = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        views[name] = buffer[start:end].view(torch.bfloat16).view(entry["shape"])
    return views


def _write_shard(tensors: Mapping[str, torch.Tensor], path: Path) -> int:
    """Write a file; return the bytes of its tensors."""
    header, starts, end = {}, {}, 0
    for name, tensor in tensors.items():
        starts[name], end = end, end + tensor.nbytes
        offsets = [starts[name], end]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.pwrite(fd, len(text).to_bytes(8, "little") + text, 0)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            moves = [
                pool.submit(_write_tensor, fd, 8 + len(text) + starts[name], tensor)
                for name, tensor in tensors.items()
            ]
        for move in moves:
            move.result()
        os.fsync(fd)
    finally:
        os.close(fd)
    return end


def _write_tensor(fd: int, offset: int, tensor: torch.Tensor) -> None:
    whole = tensor.view(-1).view(torch.uint8)
    for start in range(0, whole.numel(), _PIECE_NBYTES):
        copied = whole[start : start + _PIECE_NBYTES].cpu()
        piece = memoryview(copied.numpy())  # type: ignore[arg-type]
        written = 0
        while written < len(piece):
            written += os.pwrite(fd, piece[written:], offset + start + written)
