"""Memory that is handed in: all tensors become views of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import thaw
from thaw.tensors.elements import bytes_of

TENSORS = {
    "a": torch.arange(1000, dtype=torch.int16),
    "turned": torch.randn(30, 20).T,
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
}
TENSORS["tied"] = TENSORS["a"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    thaw.freeze(TENSORS, tmp_path / "m.thaw")
    return tmp_path / "m.thaw"


def memory_for(path: Path, more: int = 0) -> torch.Tensor:
    with thaw.open(path) as snapshot:
        assert snapshot.payload_nbytes is not None
        return torch.full((snapshot.payload_nbytes + more,), 0xAA, dtype=torch.uint8)


def assert_views(restored: thaw.Restored, arena: torch.Tensor) -> None:
    assert restored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert bytes_of(restored[name]).equal(bytes_of(tensor)), name
        assert restored[name].stride() == tensor.stride(), name
        if tensor.numel():
            assert restored[name].untyped_storage().data_ptr() == arena.untyped_storage().data_ptr()
    assert restored["tied"].data_ptr() == restored["a"].data_ptr()


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("opened", [False, True])
def test_all_tensors_are_views_of_it(path: Path, backend: str, opened: bool) -> None:
    arena = memory_for(path, more=4096)
    if opened:
        with thaw.open(path) as snapshot:
            restored = thaw.restore(snapshot, arena=arena, backend=backend)
    else:
        restored = thaw.restore(path, arena=arena, backend=backend)
    assert_views(restored, arena)
    assert restored.report.chunks_checked > 0
    assert set(arena[-4096:].tolist()) == {0xAA}, "beyond the payload nothing is written"


def test_it_holds_the_payload_as_the_file_does(path: Path) -> None:
    arena = memory_for(path)
    thaw.restore(path, arena=arena)
    with thaw.open(path) as snapshot:
        (digests,) = snapshot.digests
        assert digests is not None
        start = digests.chunks.offset
    data = path.read_bytes()[start : start + arena.numel()]
    assert bytes(arena.tolist()) == data


def test_a_part_of_larger_memory_will_do(path: Path) -> None:
    large = memory_for(path, more=1 << 16)
    restored = thaw.restore(path, arena=large[4096:])
    assert_views(restored, large)
    assert set(large[:4096].tolist()) == {0xAA}


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda arena: arena[:-1], "and the payload"),
        (lambda arena: torch.cat([arena, arena])[::2], "contiguous"),
        (lambda arena: arena.view(1, -1), "1-D"),
        (lambda arena: arena.view(torch.int8), "int8"),
        (lambda arena: torch.cat([arena, arena])[8:], "multiple of 16"),
    ],
)
def test_memory_that_does_not_fit(path: Path, spoil: object, match: str) -> None:
    assert callable(spoil)
    arena = spoil(memory_for(path))
    before = arena.clone()
    with pytest.raises(thaw.MismatchError, match=match):
        thaw.restore(path, arena=arena)
    assert arena.equal(before)


@pytest.mark.parametrize(
    "more", [{"device": "cpu"}, {"into": {}}, {"storages": "own"}, {"names": "a"}]
)
def test_it_is_given_alone(path: Path, more: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="arena="):
        thaw.restore(path, arena=memory_for(path), **more)  # type: ignore[arg-type]


def test_a_format_without_a_payload(path: Path, tmp_path: Path) -> None:
    tensors = {"a": TENSORS["a"]}
    thaw.freeze(tensors, tmp_path / "one.thaw")
    thaw.convert(tmp_path / "one.thaw", tmp_path / "one.safetensors")
    with thaw.open(tmp_path / "one.safetensors") as snapshot:
        assert snapshot.payload_nbytes is None
    with pytest.raises(TypeError, match="'safetensors' has no payload"):
        thaw.restore(tmp_path / "one.safetensors", arena=memory_for(path))


def test_damage_is_named(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with thaw.open(path) as snapshot:
        data[snapshot.storages[0].offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(thaw.ChecksumError, match="'a'"):
        thaw.restore(path, arena=memory_for(path))


def test_nothing_but_empty_tensors(tmp_path: Path) -> None:
    thaw.freeze({"empty": torch.empty(0, 3)}, tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", arena=torch.empty(0, dtype=torch.uint8))
    assert restored["empty"].shape == (0, 3)
