"""Restore: into modules and mappings, parts, ties, strides, and targets that do not fit."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thaw_format import DTYPES, read_tensors
from torch import nn

import thaw
from thaw.restoring.in_place import find_singles
from thaw.tensors.elements import bytes_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight
        self.conv = nn.Parameter(torch.randn(6, 4).T)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("cache", torch.arange(5), persistent=False)


def digest(tensor: torch.Tensor) -> str:
    data = bytes_of(tensor)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def state(module: nn.Module) -> dict[str, str]:
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: digest(tensor) for name, tensor in named}


@pytest.fixture
def frozen(tmp_path: Path) -> tuple[Net, Path]:
    net = Net()
    thaw.freeze(net, tmp_path / "net.thaw")
    return net, tmp_path / "net.thaw"


def test_fills_a_module_where_it_is(frozen: tuple[Net, Path]) -> None:
    net, path = frozen
    other = Net()
    other.cache.zero_()
    addresses = {name: p.data_ptr() for name, p in other.named_parameters()}
    restored = thaw.restore(path, into=other)
    assert state(other) == state(net)
    assert {name: p.data_ptr() for name, p in other.named_parameters()} == addresses
    assert other.head.weight is other.embed.weight
    assert other.conv.stride() == (1, 4)
    assert restored["conv"].data_ptr() == other.conv.data_ptr()
    assert restored.report.kept == ()


def test_hands_out_views_with_ties_and_strides(frozen: tuple[Net, Path]) -> None:
    net, path = frozen
    tensors = thaw.restore(path)
    assert {name: digest(t) for name, t in tensors.items()} == state(net)
    assert tensors["head.weight"].data_ptr() == tensors["embed.weight"].data_ptr()
    assert tensors["conv"].stride() == (1, 4)
    assert all(t.data_ptr() % 512 == 0 for t in tensors.values())


def test_a_frozen_restoration_is_the_same_payload(frozen: tuple[Net, Path]) -> None:
    _, path = frozen
    again = path.with_name("again.thaw")
    thaw.freeze(thaw.restore(path), again)
    with thaw.open(path) as a, thaw.open(again) as b:
        assert list(a.digests[0].values) == list(b.digests[0].values)
        assert dict(a.tensors) == dict(b.tensors)


def test_a_target_of_other_strides_gets_the_same_elements(tmp_path: Path) -> None:
    source = torch.randn(6, 4, 3)
    wide = torch.zeros(6, 8, 3)
    thaw.freeze({"x": source, "y": source.clone()}, tmp_path / "x.thaw")
    into = {"x": torch.zeros(3, 4, 6).permute(2, 1, 0), "y": wide[:, ::2]}
    report = thaw.restore(tmp_path / "x.thaw", into=into).report
    assert torch.equal(into["x"], source)
    assert torch.equal(into["y"], source)
    assert not wide[:, 1::2].any(), "bytes between the target's elements are not ours"
    assert report.staged == 2


def test_every_bit_survives_a_copy_between_strides(tmp_path: Path) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    sources = {
        "bool": bits.view(torch.bool).reshape(16, 16),
        "bf16": torch.arange(-32768, 32768).to(torch.int16).view(torch.bfloat16).reshape(256, 256),
        "f8": bits.clone().view(torch.float8_e4m3fn).reshape(16, 16),
        "c128": torch.full((4, 4), float("nan")).to(torch.complex128),
    }
    thaw.freeze(sources, tmp_path / "x.thaw")
    into = {name: torch.empty_like(t).T.contiguous().T for name, t in sources.items()}
    thaw.restore(tmp_path / "x.thaw", into=into)
    for name, tensor in sources.items():
        assert digest(into[name]) == digest(tensor), name


def test_restores_a_part_by_pattern(frozen: tuple[Net, Path]) -> None:
    net, path = frozen
    assert set(thaw.restore(path, names="*.weight")) == {"embed.weight", "head.weight"}
    other = Net()
    before = state(other)
    thaw.restore(path, into=other, names=["conv", "sc*"])
    after = state(other)
    assert after["conv"] == state(net)["conv"]
    assert after["embed.weight"] == before["embed.weight"]
    with pytest.raises(thaw.MismatchError, match="no tensor has a name like: 'convv'"):
        thaw.restore(path, names=["conv", "convv"])


def test_differences_are_listed_and_nothing_is_touched(frozen: tuple[Net, Path]) -> None:
    _, path = frozen
    other = Net()
    other.extra = nn.Parameter(torch.zeros(3))
    other.conv = nn.Parameter(torch.zeros(4, 7))
    other.scale = torch.tensor(1.0, dtype=torch.float64)
    before = state(other)
    with pytest.raises(thaw.MismatchError) as caught:
        thaw.restore(path, into=other, names=None)
    assert state(other) == before
    assert set(caught.value.differences) == {
        "'conv' has shape [4, 6] in the snapshot, [4, 7] in the target",
        "'scale' is float32 in the snapshot, float64 in the target",
        "'extra' is not in the snapshot",
    }
    assert "3 differences" in str(caught.value)


def test_strict_false_is_for_names_alone(frozen: tuple[Net, Path]) -> None:
    net, path = frozen
    other = Net()
    other.extra = nn.Parameter(torch.zeros(3))
    del other.cache
    report = thaw.restore(path, into=other, strict=False).report
    assert report.kept == ("extra",)
    assert state(other)["conv"] == state(net)["conv"]
    other.conv = nn.Parameter(torch.zeros(1))
    with pytest.raises(thaw.MismatchError, match="shape"):
        thaw.restore(path, into=other, strict=False)


def test_a_non_persistent_buffer_may_be_missing_and_is_reported(tmp_path: Path) -> None:
    net = Net()
    thaw.freeze(net.state_dict(), tmp_path / "x.thaw")
    other = Net()
    assert thaw.restore(tmp_path / "x.thaw", into=other).report.kept == ("cache",)


def test_a_tied_name_is_filled_by_the_other(tmp_path: Path) -> None:
    net = Net()
    names = net.state_dict()
    del names["head.weight"]
    thaw.freeze(names, tmp_path / "x.thaw")
    other = Net()
    thaw.restore(tmp_path / "x.thaw", into=other)
    assert torch.equal(other.head.weight, net.embed.weight)


def test_tied_on_one_side_alone_is_an_error(tmp_path: Path) -> None:
    w = torch.randn(4)
    thaw.freeze({"a": w, "b": w}, tmp_path / "tied.thaw")
    thaw.freeze({"a": w, "b": w.clone()}, tmp_path / "apart.thaw")
    one = torch.zeros(4)
    with pytest.raises(
        thaw.MismatchError, match="in the snapshot alone; tie them in the target first"
    ):
        thaw.restore(tmp_path / "tied.thaw", into={"a": one, "b": torch.zeros(4)})
    two = torch.zeros(6)
    thaw.freeze({"a": two[:4].clone(), "b": two[2:].clone()}, tmp_path / "views.thaw")
    with pytest.raises(thaw.MismatchError, match="overlap in the target alone"):
        thaw.restore(tmp_path / "views.thaw", into={"a": two[:4], "b": two[2:]})
    assert not one.any()


def test_tied_in_the_target_and_stored_twice(tmp_path: Path) -> None:
    w = torch.randn(4, 3)
    one = torch.zeros(4, 3)
    thaw.freeze({"a": w, "b": w.clone()}, tmp_path / "same.thaw")
    thaw.restore(tmp_path / "same.thaw", into={"a": one, "b": one})
    assert torch.equal(one, w)
    thaw.freeze({"a": w + 1, "b": w}, tmp_path / "other.thaw")
    with pytest.raises(thaw.MismatchError, match="'b' is tied to 'a' in the target"):
        thaw.restore(tmp_path / "other.thaw", into={"a": one, "b": one})
    assert torch.equal(one, w)


def test_views_of_several_dtypes_at_odd_places(tmp_path: Path) -> None:
    data = torch.arange(64, dtype=torch.uint8)
    views = {"x": data[:5], "y": data[6:20], "z": data[8:16].view(torch.int64)}
    thaw.freeze(views, tmp_path / "x.thaw")
    other = torch.zeros(64, dtype=torch.uint8)
    into = {"x": other[:5], "y": other[6:20], "z": other[8:16].view(torch.int64)}
    thaw.restore(tmp_path / "x.thaw", into=into)
    assert {n: t.tolist() for n, t in into.items()} == {n: t.tolist() for n, t in views.items()}
    assert not other[5]
    assert not other[20:].any()


def test_meta_and_sparse_targets_are_errors(frozen: tuple[Net, Path]) -> None:
    with torch.device("meta"):
        other = Net()
    with pytest.raises(thaw.MismatchError, match="to_empty"):
        thaw.restore(frozen[1], into=other)


def test_conjugated_and_negated_views(tmp_path: Path) -> None:
    value = torch.randn(3, dtype=torch.complex64)
    tensors = {"c": value.conj(), "n": value.conj().imag}
    assert tensors["n"].is_neg()
    thaw.freeze(tensors, tmp_path / "x.thaw")
    restored = thaw.restore(tmp_path / "x.thaw")
    assert not restored["c"].is_conj()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())
    target = torch.zeros(3, dtype=torch.complex64)
    with pytest.raises(thaw.MismatchError, match="conjugated or negated"):
        thaw.restore(tmp_path / "x.thaw", into={"c": target.conj(), "n": torch.zeros(3)})


def test_nothing_but_tensors_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'a' is of type int"):
        thaw.freeze({"a": 3}, tmp_path / "x.thaw")  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="'a' is a meta tensor"):
        thaw.freeze({"a": torch.empty(3, device="meta")}, tmp_path / "x.thaw")
    with pytest.raises(TypeError, match="not a plain strided"):
        thaw.freeze({"a": torch.eye(3).to_sparse()}, tmp_path / "x.thaw")
    with pytest.raises(thaw.FormatError, match="fraction"):
        thaw.freeze({"a": torch.ones(3)}, tmp_path / "x.thaw", metadata={"x": 0.5})  # type: ignore[dict-item]
    with pytest.raises(thaw.FormatError, match="store it as a string"):
        thaw.freeze({}, tmp_path / "x.thaw", metadata={"x": float("nan")})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="3 is no name"):
        thaw.freeze({3: torch.ones(3)}, tmp_path / "x.thaw")  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="4 is no name"):
        thaw.freeze({}, tmp_path / "x.thaw", metadata={"x": {4: 5}})  # type: ignore[dict-item]
    for name in ("", "a\0b", "x" * 4097, "\ud800"):
        with pytest.raises(thaw.FormatError):
            thaw.freeze({name: torch.ones(3)}, tmp_path / "x.thaw")
    assert list(tmp_path.iterdir()) == []


def test_expanded_and_overlapping_targets(tmp_path: Path) -> None:
    row = torch.arange(6.0)
    tensors = {"wide": row.expand(4, 6), "windows": row.clone().unfold(0, 3, 1)}
    thaw.freeze(tensors, tmp_path / "x.thaw")
    into = {"wide": torch.zeros(6).expand(4, 6), "windows": torch.zeros(6).unfold(0, 3, 1)}
    assert thaw.restore(tmp_path / "x.thaw", into=into).report.staged == 0
    assert all(torch.equal(into[name], tensor) for name, tensor in tensors.items())
    plain = {"wide": torch.zeros(4, 6), "windows": torch.zeros(4, 3)}
    with pytest.raises(thaw.MismatchError, match="'wide' is expanded"):
        thaw.restore(tmp_path / "x.thaw", into=plain)
    assert not plain["windows"].any()
    thaw.freeze({"x": torch.zeros(4, 3)}, tmp_path / "y.thaw")
    with pytest.raises(thaw.MismatchError, match="overlap each other in the target"):
        thaw.restore(tmp_path / "y.thaw", into={"x": torch.zeros(6).unfold(0, 3, 1)})


def test_into_and_device_exclude_each_other(frozen: tuple[Net, Path]) -> None:
    with pytest.raises(TypeError, match="either"):
        thaw.restore(frozen[1], into={}, device="cpu")


def test_a_damaged_chunk_names_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.thaw"
    tensors = {f"layer.{i}": torch.full((4096,), i, dtype=torch.uint8) for i in range(8)}
    thaw.freeze(tensors, path, chunk_nbytes=4096)
    with thaw.open(path) as snapshot:
        at = snapshot.storages[5].offset + 17
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(thaw.ChecksumError, match=r"chunk 5 .*'layer\.5'") as caught:
        thaw.restore(path)
    assert caught.value.rule == "PAY-1"
    with pytest.raises(thaw.ChecksumError, match=r"'layer\.5'"):
        thaw.verify(path)
    assert set(thaw.restore(path, names="layer.4")) == {"layer.4"}


def test_a_wrapper_subclass_is_unwrapped(tmp_path: Path) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    pair = TwoTensor(torch.randn(3), torch.randn(3))
    thaw.freeze({"w": pair}, tmp_path / "x.thaw")
    restored = thaw.restore(tmp_path / "x.thaw")
    assert set(restored) == {"w.a", "w.b"}
    assert torch.equal(restored["w.b"], pair.b)


def test_several_ranks(tmp_path: Path) -> None:
    folder, identity = tmp_path / "m.thaw", "ab" * 16
    for rank in (1, 0):
        shard = thaw.Shard(rank=rank, size=2, tp=thaw.RankOf(rank, 2))
        thaw.freeze({"w": torch.full((4,), rank)}, folder, shard=shard, snapshot_id=identity)
        if rank:
            with pytest.raises(FileNotFoundError):
                thaw.open_ranks(folder)
            with pytest.raises(thaw.FormatError, match="rank 0 of 1"):
                thaw.finish_ranks(folder)
    thaw.finish_ranks(folder)
    assert [int(thaw.restore(folder, rank=r)["w"][0]) for r in (0, 1)] == [0, 1]
    assert thaw.verify(folder).ranks == 2
    with pytest.raises(thaw.MismatchError, match="2 ranks"):
        thaw.restore(folder)
    with pytest.raises(thaw.MismatchError, match="no rank 2"):
        thaw.restore(folder, rank=2)


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Draw tensors of any dtype, some of them views of others."""
    tensors: dict[str, torch.Tensor] = {}
    for index in range(draw(st.integers(0, 6))):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        size = dtype.itemsize * torch.Size(shape).numel()
        data = torch.frombuffer(
            bytearray(draw(st.binary(min_size=size, max_size=size)) or b"0"), dtype=torch.uint8
        )
        base = torch.empty(0, dtype=dtype)
        storage = data.clone().untyped_storage()
        strides = torch.empty(shape, device="meta").stride()
        tensor = base.set_(storage, 0, shape, strides)
        tensors[
            draw(
                st.text(min_size=1, max_size=9).filter(lambda s: "\0" not in s and s.isprintable())
            )
            + str(index)
        ] = tensor
        if tensor.dim() >= 2 and draw(st.booleans()):
            tensors[f"view-{index}"] = tensor.transpose(0, 1)
        if tensor.dim() and tensor.shape[0] > 1 and draw(st.booleans()):
            tensors[f"part-{index}"] = tensor[1:]
    return tensors


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tensors=mappings(), chunk=st.sampled_from([4096, 4 << 20]))
def test_any_mapping_comes_back(
    tmp_path: Path, tensors: dict[str, torch.Tensor], chunk: int
) -> None:
    path = tmp_path / "x.thaw"
    thaw.freeze(tensors, path, chunk_nbytes=chunk)
    for restored in (thaw.restore(path), read_tensors(path)):
        assert list(restored) == list(tensors)
        for name, tensor in tensors.items():
            assert restored[name].dtype == tensor.dtype
            assert restored[name].shape == tensor.shape
            assert restored[name].stride() == tensor.stride()
            assert digest(restored[name]) == digest(tensor)
    into = {
        name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for name, t in tensors.items()
    }
    apart = {n: t for n, t in into.items() if not n.startswith(("view-", "part-"))}
    thaw.restore(path, into=apart, strict=False)
    for name, tensor in apart.items():
        assert digest(tensor) == digest(tensors[name])


SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (1, 1), (3, 4), (2, 1, 5), (0,), (2, 0)]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_targets_of_every_dtype_are_filled_where_they_are(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    def made(shape: tuple[int, ...]) -> torch.Tensor:
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        return torch.randint(256, (nbytes,), dtype=torch.uint8).view(dtype).view(shape)

    tensors = {str(shape): made(shape) for shape in SHAPES}
    targets = {name: made(tuple(tensor.shape)) for name, tensor in tensors.items()}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        singles = find_singles(snapshot, targets)
        assert singles.keys() == {name for name, target in targets.items() if target.numel()}
    report = thaw.restore(tmp_path / "a.thaw", into=targets).report
    assert report.staged == 0
    assert report.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert {n: digest(t) for n, t in targets.items()} == {n: digest(t) for n, t in tensors.items()}


def test_targets_in_one_allocation_are_filled_one_by_one(tmp_path: Path) -> None:
    tensors = {f"{index}": torch.full((4,), index, dtype=torch.int16) for index in range(6)}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    arena = torch.full((64,), -1, dtype=torch.int16)
    # Out of order, one of every other element, and a gap that belongs to nobody.
    places = {"0": 20, "1": 0, "2": 4, "3": 8, "4": 30}
    targets = {name: arena[start : start + 4] for name, start in places.items()}
    targets["5"] = arena[40:48:2]
    thaw.restore(tmp_path / "a.thaw", into=targets)
    expected = torch.full((64,), -1, dtype=torch.int16)
    for name, start in places.items():
        expected[start : start + 4] = int(name)
    expected[40:48:2] = 5
    assert torch.equal(arena, expected)


def test_tensors_that_share_bytes_are_no_singles(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.int32)
    tensors = {"whole": whole, "part": whole[4:8], "other": torch.arange(3)}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        assert find_singles(snapshot, tensors).keys() == {"other"}
        apart = {name: tensor.clone() for name, tensor in tensors.items()}
        assert find_singles(snapshot, apart).keys() == {"other"}


def test_names_that_are_no_patterns_are_looked_up(tmp_path: Path) -> None:
    names = ["a", "a.b", "a[0]", "a*"]
    thaw.freeze({name: torch.ones(1) for name in names}, tmp_path / "a.thaw")
    restored = thaw.restore(tmp_path / "a.thaw", names=["a", "a[[]0]"])
    assert list(restored) == ["a", "a[0]"]
    with pytest.raises(thaw.MismatchError, match=r"no tensor has a name like: 'c'; 'b\*'$"):
        thaw.restore(tmp_path / "a.thaw", names=["c", "a", "b*"])
