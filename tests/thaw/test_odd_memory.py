"""Memory that is freed, shared behind torch's back, or made where another device is the default."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import thaw

pytestmark = pytest.mark.parametrize("backend", ["reference", "native"])


def freed(tensor: torch.Tensor) -> torch.Tensor:
    """Leave a tensor as FSDP does: with sizes, and without memory."""
    tensor.untyped_storage().resize_(0)
    return tensor


def over(memory: bytearray, start: int, count: int) -> torch.Tensor:
    """Return a tensor of so many floats over part of some memory, with a storage of its own."""
    return torch.frombuffer(memory, dtype=torch.float32, offset=4 * start, count=count)


def test_a_freed_storage_is_not_frozen(tmp_path: Path, backend: str) -> None:
    parameter = nn.Parameter(freed(torch.ones(1000)))
    with pytest.raises(TypeError, match="'p' has no memory for its elements"):
        thaw.freeze({"p": parameter}, tmp_path / "a.thaw", backend=backend)
    assert parameter.untyped_storage().nbytes() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strided", [False, True])
def test_a_freed_storage_is_not_filled(tmp_path: Path, backend: str, strided: bool) -> None:
    target = freed(torch.ones(250, 2)[:, ::2] if strided else torch.ones(250))
    thaw.freeze({"p": torch.ones(target.shape)}, tmp_path / "a.thaw", backend=backend)
    with pytest.raises(thaw.MismatchError, match="'p' has no memory for its elements"):
        thaw.restore(tmp_path / "a.thaw", into={"p": target}, backend=backend)
    assert target.untyped_storage().nbytes() == 0


@pytest.mark.parametrize("first", [0, 2, 5])
def test_targets_that_share_memory_from_outside_of_torch_are_refused(
    tmp_path: Path, backend: str, first: int
) -> None:
    thaw.freeze({"x": torch.ones(10), "y": torch.full((5,), 2.0)}, tmp_path / "a.thaw")
    memory = bytearray(40)
    into = {"x": over(memory, 0, 10), "y": over(memory, first, 5)}
    with pytest.raises(thaw.MismatchError, match=r"'x' and 'y' (share memory|overlap) in the"):
        thaw.restore(tmp_path / "a.thaw", into=into, backend=backend)
    assert memory == bytes(40)


def test_neighbours_in_memory_from_outside_of_torch_are_filled(
    tmp_path: Path, backend: str
) -> None:
    thaw.freeze({"x": torch.ones(5), "y": torch.full((5,), 2.0)}, tmp_path / "a.thaw")
    memory = bytearray(40)
    into = {"x": over(memory, 0, 5), "y": over(memory, 5, 5)}
    thaw.restore(tmp_path / "a.thaw", into=into, backend=backend)
    assert over(memory, 0, 10).tolist() == [1.0] * 5 + [2.0] * 5


def test_storages_of_other_sizes_at_one_address_are_frozen(tmp_path: Path, backend: str) -> None:
    memory = bytearray(range(40))
    tensors = {"short": over(memory, 0, 5), "long": over(memory, 0, 10)}
    thaw.freeze(tensors, tmp_path / "a.thaw", backend=backend)
    restored = thaw.restore(tmp_path / "a.thaw", backend=backend)
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())


def test_a_default_device_changes_nothing(tmp_path: Path, backend: str) -> None:
    tensors = {"a": torch.arange(7.0), "b": torch.arange(6.0).view(2, 3).T, "empty": torch.empty(0)}
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    with torch.device("meta"):
        thaw.freeze(tensors, tmp_path / "a.thaw", backend=backend)
        restored = thaw.restore(tmp_path / "a.thaw", backend=backend)
        thaw.restore(tmp_path / "a.thaw", into=into, backend=backend)
        part = thaw.restore(tmp_path / "a.thaw", names="b", backend=backend)
        thaw.convert(tmp_path / "a.thaw", tmp_path / "a.safetensors", backend=backend)
        assert thaw.diff(tmp_path / "a.thaw", tmp_path / "a.safetensors", backend=backend).identical
    for name, tensor in tensors.items():
        assert torch.equal(restored[name], tensor)
        assert torch.equal(into[name], tensor)
    assert torch.equal(part["b"], tensors["b"])


def test_nested_tensors_are_refused(tmp_path: Path, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype, the first time
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(TypeError, match="'n' is not a plain strided tensor"):
        thaw.freeze({"n": nested}, tmp_path / "a.thaw", backend=backend)
