"""New tensors in storages of their own, for what looks at storages."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn

import thaw


def saved_nbytes(tensor: torch.Tensor, path: Path) -> int:
    torch.save(tensor, path)
    return path.stat().st_size


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    w, data = torch.randn(6, 4), torch.arange(64, dtype=torch.uint8)
    return {
        "w": w,
        "tied": w,
        "turned": torch.randn(5, 3).T,
        "large": torch.randint(256, (5 << 20,), dtype=torch.uint8),
        "empty": torch.empty(0, 3),
        "part": data[8:24].view(torch.int64),
        "whole": data,
        "scalar": torch.tensor(3.0, dtype=torch.float64),
    }


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("format", ["thaw", "safetensors"])
def test_each_storage_is_one_of_its_own(
    tensors: dict[str, torch.Tensor], tmp_path: Path, format: str, backend: str
) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    path = tmp_path / f"m.{format}"
    if format != "thaw":
        thaw.convert(tmp_path / "m.thaw", path)
    restored = thaw.restore(path, storages="own", backend=backend)
    assert list(restored) == list(thaw.restore(path))
    shared = {"w", "tied", "part", "whole"} if format == "thaw" else set()
    for name, tensor in restored.items():
        assert torch.equal(tensor, tensors[name]), name
        assert name in shared or tensor.untyped_storage().nbytes() == tensor.nbytes
    addresses = {t.untyped_storage().data_ptr() for n, t in restored.items() if t.numel()}
    assert len(addresses) == (5 if format == "thaw" else 7)
    if format == "thaw":
        assert restored["tied"].data_ptr() == restored["w"].data_ptr()
        assert restored["turned"].stride() == tensors["turned"].stride()


def test_what_is_reported_is_the_same(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    one = thaw.restore(tmp_path / "m.thaw").report
    two = thaw.restore(tmp_path / "m.thaw", storages="own").report
    assert (two.nbytes, two.tensors, two.chunks_checked) == (
        one.nbytes,
        one.tensors,
        one.chunks_checked,
    )
    part = thaw.restore(tmp_path / "m.thaw", storages="own", names="part")
    assert torch.equal(part["part"], tensors["part"])


def test_one_tensor_is_saved_alone(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    shared, own = (
        saved_nbytes(thaw.restore(tmp_path / "m.thaw", storages=each)["scalar"], tmp_path / each)
        for each in ("shared", "own")
    )
    assert own < 10_000 < shared


def test_a_damaged_storage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.thaw"
    thaw.freeze({"a": torch.zeros(4096), "b": torch.zeros(4096)}, path, chunk_nbytes=4096)
    with thaw.open(path) as snapshot:
        at = snapshot.storages[1].offset + 5
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(thaw.ChecksumError, match="'b'"):
        thaw.restore(path, storages="own")


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    thaw.freeze({"a": torch.zeros(4)}, tmp_path / "m.thaw")
    with pytest.raises(ValueError, match="storages is 'shared' or 'own', not 'mine'"):
        thaw.restore(tmp_path / "m.thaw", storages="mine")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="either into= or storages="):
        thaw.restore(tmp_path / "m.thaw", into={"a": torch.zeros(4)}, storages="own")


def test_thousands_of_storages(tmp_path: Path) -> None:
    tensors = {f"{index}": torch.full((3,), index) for index in range(20_000)}
    thaw.freeze(tensors, tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", storages="own")
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight


def test_a_model_of_restored_tensors_is_saved_by_safetensors(tmp_path: Path) -> None:
    net = nn.Sequential(Tied(), nn.Linear(4, 4))
    thaw.freeze(net, tmp_path / "m.thaw")
    with torch.device("meta"):
        other = nn.Sequential(Tied(), nn.Linear(4, 4))
    other.load_state_dict(thaw.restore(tmp_path / "m.thaw", storages="own"), assign=True)
    save_model(other, str(tmp_path / "m.safetensors"))
    again = nn.Sequential(Tied(), nn.Linear(4, 4))
    load_model(again, tmp_path / "m.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))
    assert len(load_file(tmp_path / "m.safetensors")) == 3
