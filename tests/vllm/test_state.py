"""What is found in a model and compared with a snapshot, without vLLM; made-up modules stand in."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thaw
from thaw.vllm.agent import Agent
from thaw.vllm.options import LoadOptions
from thaw.vllm.weights.identity import check_identity
from thaw.vllm.weights.materializing import convert_caches
from thaw.vllm.weights.state import take_state
from thaw.vllm.weights.transfer import compare_state, freeze_state, prepare_state
from thaw.vllm.worker import thaw as ask

IDENTITY = {"model": "Made", "dtype": "float32", "vllm": "1.2.3"}
PROCESSED: dict[str, Any] = {
    "stage": "processed",
    "identity": IDENTITY,
    "shard": thaw.Shard(),
    "allow_unverified": True,
}


class Method:
    """A quantization method that keeps a tensor and a float of its own."""

    def __init__(self, seed: int) -> None:
        self.table = [torch.full((3,), float(seed)), {"inner": torch.arange(seed, seed + 4)}]
        self.scale = seed / 3


Method.__module__ = "vllm.made.up"


class Layer(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(5, 7, generator=generator))
        self.tied = self.weight
        self.register_buffer("cache", torch.full((2,), float(seed)), persistent=False)
        self.plain = torch.full((), float(seed))
        self.kv_cache = torch.zeros(9)
        self.scale_float = seed / 7
        self.quant_method = Method(seed)
        self.unrelated = SimpleNamespace(tensor=torch.zeros(1))


def model(seed: int) -> nn.Module:
    return nn.Sequential(Layer(seed), Layer(seed + 1))


def frozen(path: Path, seed: int = 1) -> Path:
    freeze_state(model(seed), path, stage="loaded", identity=IDENTITY, shard=thaw.Shard())
    return path


def test_state_is_all_but_the_kv_cache() -> None:
    state = take_state(model(1))
    names = {name.removeprefix("0.") for name in state.tensors if name.startswith("0.")}
    inner = {"quant_method.table.0", "quant_method.table.1.inner"}
    assert names == {"weight", "tied", "cache", "plain"} | inner
    assert {name for name in state.floats if name.startswith("0.")} == {
        "0.scale_float",
        "0.quant_method.scale",
    }


def test_restores_every_tensor_and_float(tmp_path: Path) -> None:
    path, other = frozen(tmp_path / "a.thaw"), model(5)
    tensors = take_state(other).tensors
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    with thaw.open(path) as snapshot:
        # Two layers of five tensors, tied ones twice, and two floats.
        assert len(compare_state(other, snapshot)) == 2 * (6 + 2)
        prepare_state(other, snapshot).restore()
        assert not compare_state(other, snapshot)
    assert other[0].scale_float == 1 / 7
    assert other[1].quant_method.scale == 2 / 3
    assert {name: each.data_ptr() for name, each in take_state(other).tensors.items()} == addresses


def test_a_tensor_that_only_one_side_has_is_named_and_nothing_moves(tmp_path: Path) -> None:
    path, other = frozen(tmp_path / "a.thaw"), model(5)
    other[0].appeared = torch.zeros(3)
    del other[1].plain
    before = other[0].weight.detach().clone()
    with thaw.open(path) as snapshot, pytest.raises(thaw.MismatchError) as caught:
        prepare_state(other, snapshot).restore()
    assert caught.value.differences == (
        "'0.appeared' is not in the snapshot",
        "'1.plain' is not in the model",
    )
    assert torch.equal(other[0].weight, before)


def test_identity_names_the_field_that_differs(tmp_path: Path) -> None:
    with thaw.open(frozen(tmp_path / "a.thaw")) as snapshot:
        check_identity(snapshot, IDENTITY)
        with pytest.raises(thaw.MismatchError, match="dtype is float32 in the snapshot, bfloat16"):
            check_identity(snapshot, IDENTITY | {"dtype": "bfloat16"})


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    thaw.freeze({"weight": torch.zeros(2)}, tmp_path / "a.thaw")
    refused = pytest.raises(thaw.MismatchError, match="not frozen from a vLLM engine")
    with thaw.open(tmp_path / "a.thaw") as snapshot, refused:
        check_identity(snapshot, IDENTITY)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "needs a snapshot"),
        ({"snapshot": "a", "snapshots": "b"}, "does not know 'snapshots'"),
        ({"snapshot": 3}, "'snapshot' in model_loader_extra_config is 3"),
        ({"snapshot": "a", "verify": "yes"}, "expected a bool"),
        (None, "wants a mapping"),
    ],
)
def test_options_reject_what_they_do_not_know(extra: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadOptions.parse(extra)


@pytest.mark.parametrize("tied", ["target", "snapshot"])
def test_other_ties_are_found_before_a_byte_moves(tmp_path: Path, tied: str) -> None:
    one, other = model(1), model(2)
    apart = one if tied == "target" else other
    apart[0].tied = nn.Parameter(apart[0].weight.detach() + 1)
    path = tmp_path / "a.thaw"
    freeze_state(one, path, **PROCESSED)
    with thaw.open(path) as snapshot, pytest.raises(thaw.MismatchError, match=r"0\.weight"):
        prepare_state(other, snapshot)


def test_ties_that_hold_the_same_are_no_obstacle(tmp_path: Path) -> None:
    one, other = model(1), model(2)
    one[0].tied = nn.Parameter(one[0].weight.detach().clone())
    path = tmp_path / "a.thaw"
    freeze_state(one, path, **PROCESSED)
    with thaw.open(path) as snapshot:
        prepare_state(other, snapshot).restore()
    assert torch.equal(other[0].tied, one[0].tied)


class Rotary(nn.Module):
    """A table that running a model converts, made of its configuration, or of weights."""

    def __init__(self, rows: int = 4, *, of_weights: bool = False) -> None:
        super().__init__()
        self.register_buffer("cos_sin_cache", torch.ones(rows, 2), persistent=False)
        self._match_cos_sin_cache_dtype = print
        if of_weights:
            self.cos_coef = nn.Parameter(torch.ones(2))


def test_a_table_made_of_the_configuration_is_left_as_the_engine_made_it(tmp_path: Path) -> None:
    ran = nn.Sequential(Rotary(), nn.Linear(2, 2)).to(torch.bfloat16)
    path = tmp_path / "a.thaw"
    freeze_state(ran, path, **PROCESSED)
    with thaw.open(path) as snapshot:
        assert snapshot.tensors.keys() == {"1.weight", "1.bias"}
        other: Any = nn.Sequential(Rotary(rows=9), nn.Linear(2, 2, dtype=torch.bfloat16))
        prepare_state(other, snapshot).restore()
        assert compare_state(other, snapshot) == []
    assert torch.equal(other[0].cos_sin_cache, torch.ones(9, 2))
    assert torch.equal(other[1].weight, ran[1].weight)


def test_a_table_made_of_weights_is_loaded_as_it_was_frozen(tmp_path: Path) -> None:
    ran = nn.Sequential(Rotary(of_weights=True)).to(torch.bfloat16)
    path = tmp_path / "a.thaw"
    freeze_state(ran, path, stage="processed", identity=IDENTITY, shard=thaw.Shard())
    with thaw.open(path) as snapshot:
        built: Any = nn.Sequential(Rotary(of_weights=True))
        built[0].cos_coef.data = built[0].cos_coef.data.to(torch.bfloat16)
        with pytest.raises(thaw.MismatchError, match="bfloat16 in the snapshot, float32"):
            prepare_state(built, snapshot)
        convert_caches(built, snapshot)
        prepare_state(built, snapshot).restore()
        assert torch.equal(built[0].cos_sin_cache, ran[0].cos_sin_cache)


class Batched(nn.Module):
    """Keeps memory for a batch in each of the ways that vLLM's models do."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.deepstack_input_embeds = [torch.zeros(tokens, 2)]
        self.per_layer_embeddings = torch.zeros(tokens)
        self.positions = torch.arange(3)


class Gemma3nTextModel(Batched):
    pass


@pytest.mark.parametrize(("kind", "names"), [(Batched, {"positions"}), (Gemma3nTextModel, set())])
def test_memory_for_a_batch_is_no_state(
    kind: type[Batched], names: set[str], tmp_path: Path
) -> None:
    one, other = kind(2048), kind(4096)
    path = tmp_path / "a.thaw"
    freeze_state(one, path, stage="loaded", identity=IDENTITY, shard=thaw.Shard())
    other.deepstack_input_embeds[0].fill_(7)
    with thaw.open(path) as snapshot:
        assert snapshot.tensors.keys() == {"linear.weight", "linear.bias"} | names
        prepare_state(other, snapshot).restore()
        assert compare_state(other, snapshot) == []
    assert torch.equal(other.linear.weight, one.linear.weight)
    assert torch.equal(other.deepstack_input_embeds[0], torch.full((4096, 2), 7.0))


def test_state_that_only_the_model_s_own_methods_can_set_is_refused() -> None:
    class Own(nn.Module):
        def get_extra_state(self) -> torch.Tensor:
            return torch.ones(1)

    with pytest.raises(TypeError, match=r"'1\._extra_state' is state that only the model's own"):
        take_state(nn.Sequential(nn.Linear(1, 1), Own()))


def test_a_swap_leaves_memory_for_a_batch_as_a_forward_pass_would(tmp_path: Path) -> None:
    path, live = tmp_path / "a.thaw", Batched(8)
    freeze_state(Batched(8), path, **PROCESSED)
    live.deepstack_input_embeds[0].fill_(7)
    address = live.deepstack_input_embeds[0].data_ptr()
    with thaw.open(path) as snapshot:
        prepared = prepare_state(live, snapshot), ExitStack()
        worker = SimpleNamespace(rank=0, get_model=lambda: live)
        Agent.of(worker).prepared = prepared
        assert "error" not in ask(worker, "restore")
    assert torch.equal(live.deepstack_input_embeds[0], torch.zeros(8, 2))
    assert live.deepstack_input_embeds[0].data_ptr() == address
