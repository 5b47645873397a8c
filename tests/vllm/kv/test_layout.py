"""Blocks of caches of any layout as bytes of a file: what a plain gather of torch takes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from thaw_format import FileSource

from thaw.plugins.reference import ReferenceBackend
from thaw.seam.plan import Extents, ReadPlan
from thaw.vllm.kv.layout import Blocks, LayerCache, extents_of, file_layout
from thaw.vllm.kv.parts import Group

DTYPES = [torch.bfloat16, torch.float32, torch.uint8, torch.float8_e4m3fn]


def noise(nbytes: int, seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=made)


def cache(seed: int) -> tuple[torch.Tensor, int, int]:
    """Make a cache of random shape, order of strides, gaps and padding; its axis and its blocks."""
    chance = random.Random(seed)
    dtype = chance.choice(DTYPES)
    blocks, per = chance.randint(3, 9), chance.choice([1, 1, 2, 4])
    ndim = chance.randint(2, 5)
    axis = chance.randrange(ndim)
    shape = [chance.randint(1, 5) for _ in range(ndim)]
    shape[axis] = blocks * per
    order = list(range(ndim))
    chance.shuffle(order)
    strides, step = [0] * ndim, 1
    for each in reversed(order):
        strides[each] = step
        # A gap behind a dimension now and then, as of caches that share memory.
        step = step * shape[each] + chance.choice([0, 0, 0, 3])
    offset = chance.choice([0, 0, 7])
    flat = noise((step + offset + 8) * dtype.itemsize, seed).view(dtype)
    return flat.as_strided(shape, strides, offset), axis, blocks


def of(tensor: torch.Tensor, axis: int, blocks: int) -> LayerCache:
    return LayerCache.of(tensor, axis, blocks, backend="FLASH", cache_dtype="auto")


def gathered(tensor: torch.Tensor, axis: int, per: int, numbers: list[int]) -> bytes:
    """Take blocks as a file has them: row by row, dimensions by their strides."""
    rows = [number * per + index for number in numbers for index in range(per)]
    order = sorted(range(tensor.ndim), key=lambda each: -tensor.stride(each))
    inner = [each for each in order if each != axis]
    taken = tensor.view(tensor.dtype).movedim(axis, 0)[rows]
    places = [each + 1 if each < axis else each for each in inner]
    plain = taken.permute(0, *places).contiguous()
    return plain.view(torch.uint8).flatten().numpy().tobytes()


def read(path: Path, extents: Extents) -> None:
    source = FileSource(path)
    ReferenceBackend().read(source, ReadPlan(extents, None))
    source.close()


@pytest.mark.parametrize("seed", range(150))
def test_extents_are_a_gather(seed: int, tmp_path: Path) -> None:
    tensor, axis, blocks = cache(seed)
    made = of(tensor, axis, blocks)
    chance = random.Random(seed + 1000)
    numbers = [chance.randrange(blocks) for _ in range(chance.randint(1, 6))]
    if chance.random() < 0.5:
        numbers = sorted(set(numbers))
    per = made.layer.rows_per_block
    expected = gathered(tensor, axis, per, numbers)
    assert len(expected) == len(numbers) * made.block_nbytes
    start = 4096
    extents = extents_of(
        {"a": made}, [(("a",), Blocks(list(range(len(numbers))), numbers))], {"a": start}
    )
    found = bytearray(len(expected))
    for each in extents:
        found[each.offset - start : each.end - start] = each.memory.numpy().tobytes()
    assert extents.nbytes == len(expected)
    assert bytes(found) == expected


@pytest.mark.parametrize("seed", range(40))
def test_what_is_read_lies_in_its_blocks_and_nowhere_else(seed: int, tmp_path: Path) -> None:
    tensor, axis, blocks = cache(seed)
    made = of(tensor, axis, blocks)
    per = made.layer.rows_per_block
    chance = random.Random(seed)
    numbers = chance.sample(range(blocks), chance.randint(1, min(4, blocks)))
    stored = sorted(chance.sample(range(8), len(numbers)))
    data = noise(8 * made.block_nbytes, seed + 7).numpy().tobytes()
    (tmp_path / "file").write_bytes(data)
    before = tensor.clone(memory_format=torch.preserve_format)
    expected = {
        number: data[place * made.block_nbytes : (place + 1) * made.block_nbytes]
        for place, number in zip(stored, numbers, strict=True)
    }
    rest = [number for number in range(blocks) if number not in expected]
    untouched = gathered(tensor, axis, per, rest)
    memory = made.memory.clone()
    read(
        tmp_path / "file",
        extents_of({"a": made}, [(("a",), Blocks(stored, numbers))], {"a": 0}),
    )
    for number, said in expected.items():
        assert gathered(tensor, axis, per, [number]) == said
    assert gathered(tensor, axis, per, rest) == untouched
    # And not into gaps: with its blocks put back, the memory is what it was.
    tensor.copy_(before)
    assert torch.equal(made.memory, memory)


def test_blocks_that_follow_each_other_are_one_extent() -> None:
    tensor = noise(10 * 8 * 2, 1).view(torch.bfloat16).view(10, 8)
    made = of(tensor, 0, 10)
    blocks = Blocks([0, 1, 2, 3, 4, 5], [3, 4, 5, 9, 7, 8])
    found = extents_of({"a": made}, [(("a",), blocks)], {"a": 0})
    assert list(found.sizes) == [48, 16, 32]


def test_groups_are_in_file_order() -> None:
    caches = {name: of(noise(64, index).view(8, 8), 0, 8) for index, name in enumerate("abc")}
    groups = [(("c", "a"), Blocks([0], [2])), (("b",), Blocks([0, 1], [5, 6]))]
    found = extents_of(caches, groups, {"a": 512, "b": 0, "c": 1024})
    assert list(found.offsets) == [0, 512, 1024]
    assert list(found.sizes) == [16, 8, 8]


def test_nothing_to_load_is_no_extent() -> None:
    made = of(noise(64, 1).view(8, 8), 0, 8)
    found = extents_of({"a": made}, [(("a",), Blocks([], []))], {"a": 0})
    assert not found
    assert found.nbytes == 0


def test_rows_that_are_not_dealt_out_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="8 rows are not dealt out evenly to 3 blocks"):
        of(noise(64, 1).view(8, 8), 0, 3)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_is_laid_out_as_its_tensors_say(seed: int) -> None:
    tensor, axis, blocks = cache(seed)
    made = of(tensor, axis, blocks)
    group = Group("full", 16, None, 0, 5, ("a", "b"))
    layout = file_layout({"a": made, "b": made}, [group])
    assert [each.nbytes for each in layout.storages] == [5 * made.block_nbytes] * 2
    assert all(each.offset % 512 == 0 for each in layout.storages)
    spec = layout.tensors["b"]
    assert spec.shape == (5 * made.layer.rows_per_block, *made.layer.row_shape)
    plain = torch.empty(spec.shape)
    assert spec.stride == plain.stride() or 1 in spec.shape
    sizes = [size for size in made.layer.shape if size is not None]
    assert sorted(sizes) == sorted(made.layer.row_shape)
