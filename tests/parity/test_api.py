"""Freeze by one backend, restore by another: modules, mappings and other formats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from parity_plans import Mover, assert_same
from safetensors.torch import save_file
from torch import nn

import thaw
from thaw.restoring import new_memory

SNAPSHOT_ID = "00112233445566778899aabbccddeeff"


def bits(count: int, seed: int) -> torch.Tensor:
    """Make bytes of every kind: NaNs with payloads, negative zeros, subnormal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)


class Model(nn.Module):
    """Ties, views, and a dtype of each kind."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__()
        self.embed = nn.Embedding(700, 96)
        self.head = nn.Linear(96, 700, bias=False)
        self.head.weight = self.embed.weight
        self.conv = nn.Parameter(torch.empty(64, 33).T)
        buffers = {
            "turned": bits(300 * 40 * 2, seed).view(torch.bfloat16).view(300, 40).T,
            "fp8": bits(5003, seed + 1).view(torch.float8_e4m3fn),
            "fp8_turned": bits(50 * 70, seed + 2).view(torch.float8_e5m2).view(50, 70).T,
            "flags": bits(777, seed + 3) < 128,
            "waves": bits(800, seed + 4).view(torch.complex64),
            "scalar": bits(8, seed + 5).view(torch.float64)[0],
            "empty": torch.empty(0, 5),
            "large": bits(5_000_001, seed + 6),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=name != "flags")
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                data = bits(4 * parameter.numel(), seed + 7 + index).view(torch.float32)
                parameter.copy_(data.view(parameter.shape))
        self.to(device)


def named(module: nn.Module) -> dict[str, torch.Tensor]:
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def raw(tensor: torch.Tensor) -> bytes:
    """Return the bytes of the elements in the order of the indices."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_identical(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        mine = found[name]
        assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape), name
        assert mine.stride() == tensor.stride() or not tensor.numel(), name
        assert_same(raw(mine), raw(tensor), name)


def test_the_model_of_this_test_is_as_intended() -> None:
    model = Model(1, torch.device("cpu"))
    assert model.head.weight is model.embed.weight
    assert not model.conv.is_contiguous()
    assert not model.turned.is_contiguous()
    assert not model.fp8_turned.is_contiguous()
    assert torch.isnan(model.turned.float()).any()


def test_a_frozen_module_is_restored_by_every_backend(
    mover: Mover, everyone: list[Mover], tmp_path: Path
) -> None:
    model = Model(1, mover.device)
    report = thaw.freeze(model, tmp_path / "m.thaw", backend=mover.name, chunk_nbytes=1 << 16)
    assert report.backend == mover.name
    wanted = named(model)
    for reader in everyone:
        other = Model(100, reader.device)
        addresses = {name: tensor.data_ptr() for name, tensor in named(other).items()}
        done = thaw.restore(tmp_path / "m.thaw", into=other, backend=reader.name).report
        assert_identical(named(other), wanted)
        assert {name: tensor.data_ptr() for name, tensor in named(other).items()} == addresses
        assert other.head.weight is other.embed.weight
        assert (done.backend, done.kept) == (reader.name, ())
        assert done.chunks_checked


def test_frozen_tensors_are_restored_by_every_backend(
    mover: Mover, everyone: list[Mover], tmp_path: Path
) -> None:
    tensors = named(Model(2, mover.device))
    tensors["slice"] = tensors["turned"][3:17]
    thaw.freeze(tensors, tmp_path / "m.thaw", backend=mover.name)
    for reader in everyone:
        device = reader.device
        restored = thaw.restore(tmp_path / "m.thaw", device=device, backend=reader.name)
        assert {tensor.device for tensor in restored.values()} == {device}
        assert_identical(dict(restored), tensors)
        assert restored["head.weight"].data_ptr() == restored["embed.weight"].data_ptr()
        into = restored["slice"].untyped_storage()
        assert into.data_ptr() == restored["turned"].untyped_storage().data_ptr()


def test_a_payload_is_read_while_the_manifest_is_parsed(
    mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_memory, "_WORTH_NBYTES", 0)
    tensors = named(Model(5, mover.device))
    path = tmp_path / "m.thaw"
    thaw.freeze(tensors, path, backend="reference", chunk_nbytes=1 << 16)
    restored = thaw.restore(path, device=mover.device, backend=mover.name)
    assert_identical(dict(restored), tensors)
    with thaw.open(path) as snapshot:
        spec = snapshot.tensors["large"]
        at = snapshot.storages[spec.storage].offset + spec.offset + 4_000_000
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(thaw.ChecksumError, match="'large'"):
        thaw.restore(path, device=mover.device, backend=mover.name)


@pytest.mark.parametrize("chunk_nbytes", [4096, 1 << 20, 4 << 20])
def test_every_backend_freezes_the_same_file(
    mover: Mover, tmp_path: Path, chunk_nbytes: int
) -> None:
    for backend, name in (("reference", "a.thaw"), (mover.name, "b.thaw")):
        # The reference freezes a copy on the host: where tensors are must not show either.
        device = torch.device("cpu") if backend == "reference" else mover.device
        thaw.freeze(
            Model(3, device),
            tmp_path / name,
            backend=backend,
            snapshot_id=SNAPSHOT_ID,
            chunk_nbytes=chunk_nbytes,
        )
    files = [(tmp_path / name).read_bytes() for name in ("b.thaw", "a.thaw")]
    assert_same(*files, f"the snapshot that {mover} froze")
    thaw.verify(tmp_path / "b.thaw")


def test_part_of_a_snapshot(mover: Mover, tmp_path: Path) -> None:
    tensors = named(Model(4, torch.device("cpu")))
    thaw.freeze(tensors, tmp_path / "m.thaw", backend="reference", chunk_nbytes=4096)
    names = ["fp8", "scalar", "turned"]
    device = mover.device
    restored = thaw.restore(tmp_path / "m.thaw", device=device, backend=mover.name, names=names)
    assert_identical(dict(restored), {name: tensors[name] for name in names})
    into = {"scalar": torch.zeros((), dtype=torch.float64, device=device)}
    thaw.restore(tmp_path / "m.thaw", into=into, backend=mover.name, strict=False)
    assert_identical(into, {"scalar": tensors["scalar"]})


def test_safetensors(mover: Mover, tmp_path: Path) -> None:
    wanted = {
        name: tensor.detach().contiguous().clone()
        for name, tensor in named(Model(5, torch.device("cpu"))).items()
    }
    path, device = tmp_path / "m.safetensors", mover.device
    save_file(wanted, path, metadata={"x": "y" * 13})
    restored = thaw.restore(path, device=device, backend=mover.name)
    assert_identical(dict(restored), wanted)
    assert restored.report.chunks_checked == 0
    into = {name: torch.zeros_like(tensor, device=device) for name, tensor in wanted.items()}
    thaw.restore(path, into=into, backend=mover.name)
    assert_identical(into, wanted)


def test_a_pinned_snapshot(mover: Mover, tmp_path: Path) -> None:
    if not mover.on_cuda:
        pytest.skip("pages are locked for CUDA devices only")
    path, tensors = tmp_path / "m.thaw", named(Model(6, torch.device("cpu")))
    thaw.freeze(tensors, path, backend="reference", chunk_nbytes=1 << 16)
    with thaw.pin(path, device=mover.device) as pinned:
        for _ in range(3):
            restored = pinned.restore(device=mover.device, backend=mover.name)
            assert_identical(dict(restored), tensors)
        other = Model(200, mover.device)
        pinned.restore(into=other, backend=mover.name)
        assert_identical(named(other), tensors)
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.seek(-4097, 2)
            file.write(b"damage")
        with pytest.raises(thaw.MismatchError, match="was written to since it was pinned"):
            pinned.restore(device=mover.device, backend=mover.name)
        # Not every writer shows in the times of a file: the digests see it too.
        os.utime(path, ns=times)
        with pytest.raises(thaw.ChecksumError):
            pinned.restore(device=mover.device, backend=mover.name)


def test_other_streams_go_on(mover: Mover, tmp_path: Path) -> None:
    """Neither a freeze nor a restore waits for what streams beside the caller's were given."""
    if not mover.on_cuda:
        pytest.skip("the host has no streams")
    path, tensors = tmp_path / "m.thaw", named(Model(7, mover.device))
    into = named(Model(8, mover.device))
    beside, done = torch.cuda.Stream(mover.device), torch.cuda.Event()
    # The first time each allocates what it keeps, which may wait for all of the device.
    thaw.freeze(tensors, path, backend=mover.name)
    thaw.restore(path, into=into, backend=mover.name)
    with torch.cuda.stream(beside):
        for _ in range(40):
            torch.cuda._sleep(200_000_000)
        done.record()
    thaw.freeze(tensors, path, backend=mover.name)
    thaw.restore(path, into=into, backend=mover.name)
    assert not done.query()
    assert_identical(into, named(Model(7, torch.device("cpu"))))


def queue_work(mover: Mover) -> None:
    """Keep the current stream busy for a while."""
    if mover.on_cuda:
        torch.cuda._sleep(200_000_000)


def test_streams_of_the_caller(mover: Mover, tmp_path: Path) -> None:
    """What is queued before a transfer comes first, and what is queued after it sees the bytes."""
    path, count = tmp_path / "m.thaw", 4_000_000
    before, into = torch.zeros(2, count, device=mover.device)
    stream = torch.cuda.Stream(mover.device) if mover.on_cuda else None
    if stream:
        torch.cuda.synchronize(mover.device)
    with torch.cuda.stream(stream):
        queue_work(mover)
        before.fill_(50)
        thaw.freeze({"x": before}, path, backend=mover.name)
    with torch.cuda.stream(stream):
        queue_work(mover)
        into.fill_(3)
        thaw.restore(path, into={"x": into}, backend=mover.name)
    # On the default stream, which has not waited for the other one.
    assert int(into.sum(dtype=torch.float64)) == 50 * count
