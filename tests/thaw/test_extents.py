"""Extents of whole tensors are views of them, made when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import thaw
from thaw.restoring.api import prepare
from thaw.restoring.plan import RestorePlan
from thaw.seam.plan import Extent, TensorExtent

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


def test_an_extent_says_of_its_memory_what_its_bytes_do(tmp_path: Path) -> None:
    thaw.freeze(TENSORS, tmp_path / "a.thaw")
    into = {name: each.detach().clone() for name, each in TENSORS.items()}
    into["grad"] = torch.nn.Parameter(into["grad"])
    extents = [e for *_, read in plan_of(tmp_path / "a.thaw", into).reads for e in read.extents]
    assert sum(isinstance(extent, TensorExtent) for extent in extents) == 5
    for extent in extents:
        memory = extent.memory
        assert (memory.dtype, memory.ndim, memory.is_contiguous()) == (torch.uint8, 1, True)
        assert (extent.nbytes, extent.address) == (memory.numel(), memory.data_ptr())
        assert (extent.end, extent.device) == (extent.offset + len(memory), memory.device)
        assert not memory.requires_grad
    starts = {extent.address for extent in extents}
    assert {into[name].data_ptr() for name in TENSORS if name != "empty"} <= starts


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
