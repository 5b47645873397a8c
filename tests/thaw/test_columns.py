"""Views that lie between each other's elements, and share none of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import thaw


def columns(whole: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": whole[:, :3], "b": whole[:, 3:5], "c": whole[:, 6:]}


def blocks(whole: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        name: part.unflatten(1, (1, -1)).transpose(0, 1) for name, part in columns(whole).items()
    }


def rows_of_turned(whole: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: part.T for name, part in columns(whole).items()}


CUTS = pytest.mark.parametrize("cut", [columns, blocks, rows_of_turned])
Cut = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def source() -> torch.Tensor:
    return torch.arange(32.0).reshape(4, 8)


def frozen(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    thaw.freeze(tensors, folder / "m.thaw")
    return folder / "m.thaw"


def assert_filled(into: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(into[name], tensor) for name, tensor in wanted.items())


@CUTS
@pytest.mark.parametrize("stored_apart", [False, True])
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_columns_of_one_matrix_are_filled(
    tmp_path: Path, cut: Cut, stored_apart: bool, backend: str
) -> None:
    wanted = cut(source())
    stored = {n: t.contiguous().clone() for n, t in wanted.items()} if stored_apart else wanted
    whole = torch.full((4, 8), -1.0)
    into = cut(whole)
    report = thaw.restore(frozen(stored, tmp_path), into=into, backend=backend).report
    assert_filled(into, wanted)
    assert report.staged == 3
    assert whole[:, 5].eq(-1).all(), "what lies between them is not ours"
    wider = torch.full((4, 17), -1.0)
    thaw.restore(tmp_path / "m.thaw", into=cut(wider[:, ::2][:, :8]), backend=backend)
    assert torch.equal(wider[:, :16:2], whole)
    assert wider[:, 1::2].eq(-1).all()


@CUTS
def test_columns_are_taken_apart(tmp_path: Path, cut: Cut) -> None:
    wanted = cut(source())
    into = {name: torch.zeros(tensor.shape) for name, tensor in wanted.items()}
    thaw.restore(frozen(wanted, tmp_path), into=into)
    assert_filled(into, wanted)


def test_tied_columns_stay_tied(tmp_path: Path) -> None:
    wanted = columns(source())
    wanted["d"] = wanted["a"]
    into = columns(torch.zeros(4, 8))
    into["d"] = into["a"]
    thaw.restore(frozen(wanted, tmp_path), into=into)
    assert_filled(into, wanted)
    stored = {name: tensor.clone() for name, tensor in wanted.items()}
    thaw.restore(frozen(stored, tmp_path), into=into)
    assert_filled(into, wanted)
    stored["d"] = stored["d"] + 1
    with pytest.raises(thaw.MismatchError, match="'d' is tied to 'a' in the target"):
        thaw.restore(frozen(stored, tmp_path), into=into)
    apart = {name: torch.zeros(tensor.shape) for name, tensor in wanted.items()}
    with pytest.raises(thaw.MismatchError, match="'a' and 'd' share memory in the snapshot alone"):
        thaw.restore(frozen(wanted, tmp_path), into=apart)


def test_columns_that_share_elements_are_refused(tmp_path: Path) -> None:
    whole = torch.zeros(4, 8)
    into = {"a": whole[:, :4], "b": whole[:, 3:]}
    stored = {name: torch.ones(tensor.shape) for name, tensor in into.items()}
    with pytest.raises(thaw.MismatchError, match="'a' and 'b' overlap in the target alone"):
        thaw.restore(frozen(stored, tmp_path), into=into)
    assert not whole.any()
    with pytest.raises(thaw.MismatchError, match="'a' and 'b' share memory in the snapshot alone"):
        thaw.restore(frozen(into, tmp_path), into=stored)
    around = {"a": whole[:, :4], "b": whole.view(-1)[7:9]}
    stored = {name: torch.ones(tensor.shape) for name, tensor in around.items()}
    with pytest.raises(thaw.MismatchError, match="'a' and 'b' overlap in the target alone"):
        thaw.restore(frozen(stored, tmp_path), into=around)


def test_overlaps_of_both_sides_are_those_of_bytes(tmp_path: Path) -> None:
    """Each element goes where it belongs, whichever views the two matrices are cut into."""
    wanted = {"real": torch.randn(3, 2, dtype=torch.complex64)}
    wanted = {"real": wanted["real"].real, "imag": wanted["real"].imag}
    target = torch.zeros(3, 2, dtype=torch.complex64)
    into = {"real": target.real, "imag": target.imag}
    thaw.restore(frozen(wanted, tmp_path), into=into)
    assert_filled(into, wanted)
