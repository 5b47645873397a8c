"""Which kernels weights were processed for, and who decides by values; made-up classes stand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thaw
from thaw.vllm.weights.kernels import (
    check_kernels,
    check_verified,
    kernels_of,
    note_kernels,
    note_when_loaded,
    record_kernels,
)
from thaw.vllm.weights.materializing import occupy
from thaw.vllm.weights.processing import processing, take_layout
from thaw.vllm.weights.reads import ValueReads
from thaw.vllm.weights.transfer import freeze_state, prepare_state


class Backend(Enum):
    HALVES = "halves"
    SWAPPED = "swapped"


def inside_vllm(cls: type) -> type:
    """Have a class say that it is one of vLLM's, as those that are looked into are."""
    cls.__module__ = "vllm.made_up"
    return cls


class Kernel:
    def __init__(self, swaps: bool) -> None:
        self.swaps = swaps


Kernel.__module__ = "vllm.model_executor.kernels.made_up"


@inside_vllm
@dataclass
class Sizes:
    inner: int = 8
    max_num_tokens: int = 64


@inside_vllm
class QuantizationConfig:
    def __init__(self) -> None:
        self.layers = ["a", "b"]


@inside_vllm
class UnquantizedLinearMethod:
    """Has the name of a method that was verified."""

    def __init__(self, **parts: Any) -> None:
        self.backend, self.sizes, self.config = Backend.HALVES, Sizes(), QuantizationConfig()
        self.choose: Callable[..., object] = torch.relu
        vars(self).update(parts)


@inside_vllm
class NovelMethod(UnquantizedLinearMethod):
    pass


@inside_vllm
class MethodThatIsModule(nn.Module):
    def __init__(self, flag: bool) -> None:
        super().__init__()
        self.flag = flag


class Layer(nn.Module):
    def __init__(self, method: object, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 2), float(seed)), requires_grad=False)
        self.quant_method = method


def freeze(path: Path, method: object, **options: Any) -> Path:
    layer = nn.Sequential(Layer(method, seed=1))
    freeze_state(layer, path, stage="processed", identity={}, shard=thaw.Shard(), **options)
    return path


def prepare(path: Path, method: object) -> None:
    with thaw.open(path) as snapshot:
        prepare_state(nn.Sequential(Layer(method)), snapshot)


SAME: dict[str, dict[str, Any]] = {
    "nothing": {},
    "how many tokens there may be": {"sizes": Sizes(max_num_tokens=8192)},
    "an option of which the outcome is recorded": {"moe_backend": "triton"},
    "a fraction, which is restored": {"scale": 0.5},
    "a tensor": {"table": torch.ones(3)},
}
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "a word": ({"backend": Backend.SWAPPED}, "Backend.HALVES in the snapshot, Backend.SWAPPED in"),
    "a size": ({"sizes": Sizes(inner=16)}, r"quant_method\.sizes\.inner is 8 in the snapshot, 16"),
    "a function": ({"choose": torch.tanh}, "relu in the snapshot, .*tanh in this engine"),
    "more": ({"is_k_full": True}, "is_k_full is not there in the snapshot, True in this engine"),
}


@pytest.mark.parametrize("what", SAME)
def test_a_snapshot_fits_where_weights_are_laid_out_alike(tmp_path: Path, what: str) -> None:
    path = freeze(tmp_path / "a.thaw", UnquantizedLinearMethod())
    other = nn.Sequential(Layer(UnquantizedLinearMethod(**SAME[what])))
    with thaw.open(path) as snapshot:
        check_kernels(snapshot, other)


@pytest.mark.parametrize("what", OTHER)
def test_other_kernels_are_refused_and_named_though_every_tensor_fits(
    tmp_path: Path, what: str
) -> None:
    parts, message = OTHER[what]
    path = freeze(tmp_path / "a.thaw", UnquantizedLinearMethod())
    with pytest.raises(thaw.MismatchError, match=message) as caught:
        prepare(path, UnquantizedLinearMethod(**parts))
    assert "was processed for other kernels: '0': " in str(caught.value)


def test_kernels_within_methods_and_methods_that_are_modules_count(tmp_path: Path) -> None:
    path = freeze(
        tmp_path / "a.thaw", UnquantizedLinearMethod(kernel=Kernel(True)), allow_unverified=True
    )
    with pytest.raises(thaw.MismatchError, match=r"kernel\.swaps is True in the snapshot, False"):
        prepare(path, UnquantizedLinearMethod(kernel=Kernel(False)))
    one, two = (kernels_of(Layer(MethodThatIsModule(flag))) for flag in (True, False))
    assert one[""]["quant_method.flag"] == "True" != two[""]["quant_method.flag"]


def test_a_layer_that_only_one_side_processes_is_named(tmp_path: Path) -> None:
    path = freeze(tmp_path / "a.thaw", UnquantizedLinearMethod())
    with pytest.raises(thaw.MismatchError, match="'0' is processed in one of them alone"):
        prepare(path, None)


def test_methods_that_were_never_compared_need_a_word(tmp_path: Path) -> None:
    with pytest.raises(thaw.MismatchError, match=r"NovelMethod \(0\); freeze the model as"):
        freeze(tmp_path / "a.thaw", NovelMethod())
    assert not (tmp_path / "a.thaw").exists()
    prepare(freeze(tmp_path / "a.thaw", NovelMethod(), allow_unverified=True), NovelMethod())
    with pytest.raises(thaw.MismatchError, match="Kernel"):
        check_verified(kernels_of(Layer(UnquantizedLinearMethod(kernel=Kernel(True)))), allow=False)


@pytest.mark.parametrize("kernels", [None, "word", [{"parts": {}}], [{"modules": 1}]])
def test_a_snapshot_that_says_nothing_of_kernels_is_refused(tmp_path: Path, kernels: Any) -> None:
    path = freeze(tmp_path / "a.thaw", UnquantizedLinearMethod())
    with thaw.open(path) as snapshot:
        metadata = {"vllm": {**snapshot.metadata["vllm"], "kernels": kernels}}  # type: ignore[dict-item]
    thaw.freeze(dict(thaw.restore(path)), path, metadata=metadata)
    with pytest.raises(thaw.MismatchError, match=r"which kernels|that say nothing"):
        prepare(path, UnquantizedLinearMethod())


def test_modules_of_the_same_kernels_stand_together() -> None:
    layers = nn.Sequential(*(Layer(UnquantizedLinearMethod()) for _ in range(3)))
    (group,) = record_kernels(kernels_of(layers))
    assert group["modules"] == ["0", "1", "2"]  # type: ignore[index,call-overload]


WITHOUT_SESSIONS = SimpleNamespace(kv_transfer_config=None)


class Loader:
    def load_model(self, vllm_config: object, method: object) -> nn.Module:
        return Layer(method)


class DerivedLoader(Loader):
    pass


def test_what_running_changes_is_no_difference(tmp_path: Path) -> None:
    for _ in range(2):
        note_when_loaded(Loader)
    ran, fresh = (
        DerivedLoader().load_model(WITHOUT_SESSIONS, UnquantizedLinearMethod()) for _ in range(2)
    )
    ran.quant_method.world_size = 1  # type: ignore[union-attr]
    freeze_state(ran, tmp_path / "a.thaw", stage="processed", identity={}, shard=thaw.Shard())
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        prepare_state(fresh, snapshot)
    note_kernels(ran)
    assert kernels_of(ran)[""]["quant_method.world_size"] == "1"


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda tensor: tensor[0, 0].item(),
    "bool": lambda tensor: bool((tensor > 0).all()),
    "float": lambda tensor: float(tensor.sum()),
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
    "equal": lambda tensor: torch.equal(tensor, tensor + 1),
    "allclose": lambda tensor: torch.allclose(tensor, tensor),
    "nonzero": lambda tensor: tensor.nonzero(),
    "unique": torch.unique,
    "a mask": lambda tensor: tensor[tensor > 0],
    "masked_select": lambda tensor: tensor.masked_select(tensor > 0),
}
LOOKS_AT_NONE: dict[str, Callable[[torch.Tensor], object]] = {
    "transpose": lambda tensor: tensor.t().contiguous(),
    "scale": lambda tensor: tensor / tensor.amax(),
    "indices": lambda tensor: tensor[torch.tensor([0, 1])],
    "sort": lambda tensor: tensor.argsort(),
    "where": lambda tensor: torch.where(tensor > 0, tensor, 0.0),
    "cast": lambda tensor: tensor.to(torch.float8_e4m3fn).view(torch.uint8),
}


class Processor:
    def __init__(self, step: Callable[[torch.Tensor], object]) -> None:
        self.step = step

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.step(layer.weight)  # type: ignore[arg-type]


class DerivedProcessor(Processor):
    pass


@pytest.mark.parametrize("how", READS)
def test_who_decides_by_values_is_found(how: str) -> None:
    with ValueReads() as reads:
        DerivedProcessor(READS[how]).process_weights_after_loading(Layer(None))
    assert list(reads.found) == ["Processor"]


@pytest.mark.parametrize("how", LOOKS_AT_NONE)
def test_who_computes_without_looking_is_not_accused(how: str) -> None:
    with ValueReads() as reads:
        Processor(LOOKS_AT_NONE[how]).process_weights_after_loading(Layer(None))
    assert reads.found == {}


def test_reads_after_the_watch_are_nobody_s_affair() -> None:
    with ValueReads() as reads:
        pass
    torch.ones(1).item()
    assert reads.found == {}


def test_an_engine_that_would_be_built_by_values_is_refused(tmp_path: Path) -> None:
    path = freeze(tmp_path / "a.thaw", UnquantizedLinearMethod())
    layer = Layer(Processor(READS["bool"]))
    with (
        thaw.open(path) as snapshot,
        pytest.raises(thaw.MismatchError, match=r"Processor \(by _local_scalar_dense\)"),
        processing(snapshot) as unfilled,
    ):
        unfilled.begin(layer)
        layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]


def test_until_weights_come_their_place_holds_what_harms_nobody() -> None:
    halves = [torch.empty(3, 4, dtype=torch.bfloat16).fill_(float("nan")) for _ in range(90)]
    numbers = [torch.full((5,), 7_000_000, dtype=kind) for kind in (torch.int32, torch.int64)]
    scalar = torch.tensor(-1.0)
    occupy([*halves, *numbers, scalar])
    assert all(0 < float(each.max()) < 1 for each in halves)
    assert not any(torch.equal(one, two) for one, two in pairwise(halves))
    assert not any(each.any() for each in numbers)
    assert scalar == -1


def test_parameters_take_the_layout_of_what_was_processed(tmp_path: Path) -> None:
    layer, other = Layer(UnquantizedLinearMethod(), seed=1), Layer(UnquantizedLinearMethod())
    layer.weight = nn.Parameter(torch.arange(8).view(2, 4).t(), requires_grad=False)
    freeze_state(layer, tmp_path / "a.thaw", stage="processed", identity={}, shard=thaw.Shard())
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        take_layout(other, snapshot)
        assert (other.weight.dtype, other.weight.stride()) == (torch.int64, (1, 4))
        prepare_state(other, snapshot).restore()
    assert torch.equal(other.weight, layer.weight)
