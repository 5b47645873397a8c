"""Extents as columns, and one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import thaw
from thaw import Extent, Extents
from thaw.restoring.api import prepare
from thaw.restoring.plan import RestorePlan

TENSORS = {
    "flat": torch.arange(7, dtype=torch.int16),
    "deep": torch.arange(24.0).view(2, 3, 4),
    "one": torch.tensor(1.5),
    "narrow": torch.arange(9)[2:5],
    "grad": torch.nn.Parameter(torch.ones(3, 2)),
    "strided": torch.arange(12).view(3, 4).T,
    "empty": torch.empty(0, 3),
}


def plan_of(path: Path, into: dict[str, torch.Tensor]) -> RestorePlan:
    with thaw.open(path) as snapshot:
        return prepare(snapshot, into, "reference").plan


def test_an_extent_says_of_its_memory_what_its_columns_do(tmp_path: Path) -> None:
    thaw.freeze(TENSORS, tmp_path / "a.thaw")
    into = {name: each.detach().clone() for name, each in TENSORS.items()}
    into["grad"] = torch.nn.Parameter(into["grad"])
    ((*_, read),) = plan_of(tmp_path / "a.thaw", into).reads
    extents = read.extents
    assert len(extents) == 6
    assert extents.nbytes == sum(extent.nbytes for extent in extents) == read.nbytes
    columns = zip(extents.offsets, extents.addresses, extents.sizes, strict=True)
    for extent, (offset, address, nbytes) in zip(extents, columns, strict=True):
        memory = extent.memory
        assert (memory.dtype, memory.ndim, memory.is_contiguous()) == (torch.uint8, 1, True)
        assert (extent.offset, extent.nbytes, extent.address) == (offset, nbytes, address)
        assert (memory.numel(), memory.data_ptr()) == (nbytes, address)
        assert (extent.end, extent.device) == (offset + nbytes, extents.device)
        assert not memory.requires_grad
    assert {into[name].data_ptr() for name in TENSORS if name != "empty"} <= {*extents.addresses}


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_whole_tensors_are_filled_where_they_are(tmp_path: Path, backend: str) -> None:
    thaw.freeze(TENSORS, tmp_path / "a.thaw")
    into = {name: torch.zeros_like(each) for name, each in TENSORS.items()}
    thaw.restore(tmp_path / "a.thaw", into=into, backend=backend)
    for name, each in TENSORS.items():
        assert torch.equal(into[name], each), name


def test_a_plain_extent_says_the_same() -> None:
    memory = torch.zeros(5, dtype=torch.uint8)
    extent = Extent(512, memory)
    assert (extent.address, extent.device) == (memory.data_ptr(), memory.device)


def test_ranges_of_one_memory_share_it() -> None:
    memory = torch.arange(100, dtype=torch.uint8)
    extents = Extents.within(memory, [(4096, 50, 7), (5000, 0, 50)])
    assert [each.memory.tolist() for each in extents] == [list(range(50, 57)), list(range(50))]
    extents[1].memory.zero_()
    assert memory[:50].sum() == 0 and memory[50] == 50
    (last,) = extents[1:]
    assert (last.offset, last.address, last.nbytes) == (5000, memory.data_ptr(), 50)
    assert extents.span == (4096, 5050)


def test_extents_are_put_in_file_order_and_keep_their_memory() -> None:
    parts = [torch.full((n,), n, dtype=torch.uint8) for n in range(1, 250)]
    extents = Extents.of(Extent(10_000 - 10 * len(part), part) for part in parts)
    del parts
    assert list(extents.offsets) == sorted(extents.offsets)
    for each in extents:
        assert each.memory.tolist() == [each.nbytes] * each.nbytes


def test_of_no_extents_there_is_nothing() -> None:
    extents = Extents.of([])
    assert (len(extents), extents.nbytes, extents.span, list(extents)) == (0, 0, (0, 0), [])
    assert extents.apart()[0] is extents


def test_what_lies_on_the_host_beside_a_device_is_told_apart() -> None:
    memory = torch.arange(6, dtype=torch.uint8)
    rows = [(0, 0, 1), (10, 1, 2), (20, 3, 3)]
    every = Extents.within(memory, rows)
    columns = every.offsets, every.addresses, every.sizes
    device = torch.device("cuda", 3)
    mixed = Extents(*columns, owners=[memory], device=device, on_host=b"\0\1\0")
    there, here = mixed.apart()
    assert (there.device, list(there.offsets)) == (device, [0, 20])
    assert (here.device, list(here.offsets)) == (torch.device("cpu"), [10])
    assert here[0].memory.tolist() == [1, 2]
    assert mixed[1:].on_host == b"\1\0"
