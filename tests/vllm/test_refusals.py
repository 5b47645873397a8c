"""What thaw refuses of vLLM, since a snapshot of it would be wrong without a word."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thaw
from thaw.vllm.weights.identity import stage_of
from thaw.vllm.weights.state import take_state
from thaw.vllm.weights.transfer import freeze_state
from thaw.vllm.worker import thaw as ask


class CPUDNNLGEMMHandler:
    """Has the name and the tensor of vLLM's."""

    __module__ = "vllm._custom_ops"

    def __init__(self) -> None:
        self.handler_tensor = torch.tensor(12345)


def freeze(model: nn.Module, path: Any) -> None:
    wish: dict[str, Any] = {"stage": "processed", "identity": {}, "shard": thaw.Shard()}
    freeze_state(model, path, **wish, allow_unverified=True)


def test_weights_that_a_function_holds_beside_the_layer_are_not_frozen(tmp_path: Any) -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    packed = model[1].weight.detach().clone()
    model[0].cpu_linear = nn.functional.linear
    freeze(model, tmp_path / "a.thaw")
    model[1].cpu_linear = lambda x, *_: nn.functional.linear(x, packed)
    with pytest.raises(thaw.MismatchError, match=r"packed weights .* cannot be read: '1\.weight';"):
        freeze(model, tmp_path / "b.thaw")
    assert not (tmp_path / "b.thaw").exists()


def test_a_handle_of_a_library_is_no_tensor_of_the_model(tmp_path: Any) -> None:
    model: Any = nn.Linear(2, 2)
    model.kernel = [CPUDNNLGEMMHandler()]
    with pytest.raises(thaw.MismatchError, match=r"cannot be read: 'kernel\.0';"):
        freeze(model, tmp_path / "a.thaw")


@pytest.mark.parametrize(
    "asked", [("freeze", "a", "b", "auto"), ("prepare", "a", "auto")], ids=lambda asked: asked[0]
)
def test_an_engine_with_adapters_is_left_alone(asked: tuple[str, ...]) -> None:
    worker = SimpleNamespace(rank=0, vllm_config=SimpleNamespace(lora_config=object()))
    assert "enable_lora" in ask(worker, *asked)["message"]


@pytest.mark.parametrize(
    "asked", [("freeze", "a", "b", "auto"), ("prepare", "a", "auto")], ids=lambda asked: asked[0]
)
def test_an_engine_whose_experts_move_is_left_alone(asked: tuple[str, ...]) -> None:
    parallel = SimpleNamespace(enable_eplb=True)
    config = SimpleNamespace(lora_config=None, parallel_config=parallel)
    worker = SimpleNamespace(rank=0, vllm_config=config)
    assert "enable_eplb" in ask(worker, *asked)["message"]


def test_weights_are_not_swapped_while_blocks_of_the_old_ones_are_kept_elsewhere() -> None:
    config = SimpleNamespace(lora_config=None, kv_transfer_config=object())
    answer = ask(SimpleNamespace(rank=0, vllm_config=config), "prepare", "a", "auto")
    assert "kv_transfer_config" in answer["message"]


def test_a_layer_that_is_left_out_is_no_part_of_the_model() -> None:
    kind = type("StageMissingLayer", (nn.Module,), {})
    model: Any = nn.Sequential(nn.Linear(2, 2), kind())
    model[1].__dict__["module"] = nn.Linear(2, 2, device="meta")
    assert take_state(model).tensors.keys() == {"0.weight", "0.bias"}


def test_a_draft_model_is_not_loaded_from_the_snapshot_of_its_target() -> None:
    loader = pytest.importorskip("thaw.vllm.weights.loader", exc_type=ImportError)
    kind = loader.ThawModelLoader
    draft = SimpleNamespace(runner_type="draft")
    with pytest.raises(thaw.MismatchError, match=r"a draft model .* speculative_config"):
        kind.load_model(object.__new__(kind), SimpleNamespace(), draft)


def test_why_a_worker_could_not_freeze_reaches_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = pytest.importorskip("thaw.vllm.weights.loader", exc_type=ImportError)
    freezing = object.__new__(loader.FreezingModelLoader)
    freezing._inner, freezing._vllm_config = SimpleNamespace(load_weights=print), object()

    def fill_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.thaw")

    monkeypatch.setattr(freezing, "_freeze", fill_disk)
    model = nn.Linear(2, 2)
    freezing.load_weights(model, SimpleNamespace())
    answer = ask(SimpleNamespace(rank=1, get_model=lambda: model), "frozen")
    assert answer == {
        "rank": 1,
        "error": "OSError",
        "message": "[Errno 28] No space left on device: 'a.thaw'",
    }


def test_the_old_word_for_the_stage_of_weights_still_counts(tmp_path: Path) -> None:
    from thaw.vllm.offline import _stage

    assert (_stage(None, None), _stage("processed", None)) == ("loaded", "processed")
    with pytest.warns(DeprecationWarning, match="stage="):
        assert _stage(None, "processed") == "processed"
    with pytest.raises(TypeError, match="either"):
        _stage("loaded", "loaded")
    path = tmp_path / "a.thaw"
    thaw.freeze({"a": torch.ones(1)}, path, metadata={"vllm": {"kind": "processed"}})
    with thaw.open(path) as snapshot:
        assert stage_of(snapshot) == "processed"
