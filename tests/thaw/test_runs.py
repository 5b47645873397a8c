"""A storage may lie in several places: `Snapshot.runs` says where, and nobody else has to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from thaw_format import FileSource, Run, Snapshot

import thaw
from thaw.cli.elements import element_pieces
from thaw.comparing import _groups
from thaw.plugins.host import registry
from thaw.restoring.regions import read_tensors
from thaw.seam.backend import Backend

STRIPE_NBYTES = 1000


class Striped(Snapshot):
    """Storages of which every other stripe lies in the other file."""

    def runs(self, storage: int, start: int, end: int) -> tuple[Run, ...]:
        base, found = self.storages[storage].offset, []
        while start < end:
            at = base + start
            stop = min(end - start, STRIPE_NBYTES - at % STRIPE_NBYTES)
            found.append(Run(at // STRIPE_NBYTES % 2, at, stop))
            start += stop
        return tuple(found) or (Run(base // STRIPE_NBYTES % 2, base + start, 0),)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    made = {f"t{n}": torch.randint(256, (n,), dtype=torch.uint8) for n in (1, 700, 5001, 30_000)}
    made["grid"] = torch.arange(600, dtype=torch.int16).view(20, 30)
    made["turned"] = made["grid"].T
    made["empty"] = torch.empty(0)
    return made


@pytest.fixture
def striped(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Iterator[Snapshot]:
    """Put every other stripe of a snapshot's file into another one, and noise in its place."""
    thaw.freeze(tensors, tmp_path / "whole.thaw")
    data = (tmp_path / "whole.thaw").read_bytes()
    for which in range(2):
        parts = [data[i : i + STRIPE_NBYTES] for i in range(0, len(data), STRIPE_NBYTES)]
        kept = [each if i % 2 == which else b"?" * len(each) for i, each in enumerate(parts)]
        (tmp_path / f"{which}").write_bytes(b"".join(kept))
    with thaw.open(tmp_path / "whole.thaw") as found:
        said = {each.name: getattr(found, each.name) for each in fields(Snapshot)}
    said |= {"sources": tuple(FileSource(tmp_path / f"{which}") for which in range(2))}
    with Striped(**said | {"digests": (None, None)}) as snapshot:
        yield snapshot


@pytest.fixture(params=["reference", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def assert_equal(found: thaw.Restored, tensors: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("storages", ["shared", "own"])
def test_new_tensors(
    striped: Snapshot, tensors: dict[str, torch.Tensor], backend: str, storages: str
) -> None:
    assert_equal(thaw.restore(striped, backend=backend, storages=storages), tensors)  # type: ignore[arg-type]
    some = {name: tensors[name] for name in ("t5001", "turned")}
    assert_equal(thaw.restore(striped, backend=backend, names=list(some)), some)


def test_tensors_that_are_there(
    striped: Snapshot, tensors: dict[str, torch.Tensor], backend: str
) -> None:
    grid = torch.zeros(20, 30, dtype=torch.int16)
    into = {name: torch.zeros_like(each) for name, each in tensors.items()}
    into |= {"grid": grid, "turned": grid.T, "t700": torch.zeros(1400, dtype=torch.uint8)[::2]}
    thaw.restore(striped, into=into, backend=backend)
    for name, tensor in tensors.items():
        assert torch.equal(into[name], tensor), name


def test_what_is_read_a_part_at_a_time(
    striped: Snapshot, tensors: dict[str, torch.Tensor], backend: str
) -> None:
    mover: Backend = registry().backends[backend]
    found = {name: each.clone() for name, each in read_tensors(striped, [*tensors], mover, None)}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert sorted(name for group in _groups(striped, [*tensors]) for name in group) == sorted(
        tensors
    )
    for name, spec in striped.tensors.items():
        pieces = b"".join(bytes(piece.tolist()) for piece in element_pieces(striped, spec))
        assert pieces == tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
