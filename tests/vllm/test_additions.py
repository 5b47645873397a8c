"""What loading a checkpoint adds to a model, on made-up modules."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thaw
from thaw.vllm.weights.additions import (
    add_attributes,
    add_parameters,
    parameter_names,
    tie_as_frozen,
    unknown_additions,
)


class Head(nn.Module):
    """Like vLLM's, which is told when a checkpoint has a bias for it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.register_parameter("bias", None)

    def _register_bias(self) -> None:
        self.bias = nn.Parameter(torch.empty(5))


class Score(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2, bias=False)
        self.skip_bias_add = True


def model() -> Any:
    parts = {"lm_head": Head(), "score": Score(), "other": nn.Linear(2, 2, bias=False)}
    return nn.ModuleDict(parts)


def loaded() -> Any:
    found = model()
    found.lm_head._register_bias()
    found.score.bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    return found


def test_the_biases_of_a_checkpoint_are_made_before_they_are_restored(tmp_path: Path) -> None:
    one, other = loaded(), model()
    assert unknown_additions(one, parameter_names(other)) == []
    thaw.freeze(one, tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        add_parameters(other, snapshot)
    thaw.restore(tmp_path / "a.thaw", into=other)
    assert torch.equal(other.score.bias, one.score.bias)
    assert other.lm_head.bias.shape == (5,)
    assert other.score.skip_bias_add is False


def test_what_else_is_added_or_dropped_is_named(tmp_path: Path) -> None:
    one = loaded()
    one.other.bias = nn.Parameter(torch.zeros(2))
    one.score.extra = nn.Parameter(torch.zeros(2))
    del one.lm_head.weight
    found = unknown_additions(one, parameter_names(model()))
    assert found == ["lm_head.weight", "other.bias", "score.extra"]


def test_what_processing_keeps_beside_weights_is_made_where_it_was_left_out(tmp_path: Path) -> None:
    one, other = model(), model()
    one.other.kept = torch.randn(3, 2).t()
    tensors = dict(one.named_parameters()) | {"other.kept": one.other.kept, "gone.x": EMBEDDINGS}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        add_attributes(other, snapshot)
    assert other.other.kept.shape == (2, 3)
    assert other.other.kept.stride() == (1, 2)
    assert "kept" not in other.other._parameters


EMBEDDINGS = torch.randn(4, 2)
HEADS = {
    "tied": {"model.embed_tokens.weight": EMBEDDINGS, "lm_head.weight": EMBEDDINGS},
    "tied to another": {"wte.weight": EMBEDDINGS, "a.lm_head.weight": EMBEDDINGS},
    "apart": {"model.embed_tokens.weight": EMBEDDINGS, "lm_head.weight": EMBEDDINGS.clone()},
    "alone": {"lm_head.weight": EMBEDDINGS},
}


def model_config(*, tied: bool, untied: bool) -> Any:
    config = SimpleNamespace(tie_word_embeddings=tied)
    config.get_text_config = lambda: config
    return SimpleNamespace(hf_config=config, word_embeddings_untied_by_checkpoint=untied)


@pytest.mark.parametrize("retie", [True, False])
@pytest.mark.parametrize(
    ("head", "apart"),
    [
        ("tied", False),
        ("tied to another", False),
        ("apart", True),
        ("alone", True),
    ],
)
@pytest.mark.parametrize("untied", [True, False])
def test_embeddings_are_tied_as_they_are_in_the_snapshot(
    head: str, apart: bool, untied: bool, retie: bool, tmp_path: Path
) -> None:
    found = model_config(tied=not untied, untied=untied)
    thaw.freeze(HEADS[head], tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        tie_as_frozen(found, snapshot, retie=retie)
    assert found.hf_config.tie_word_embeddings is not apart
    assert found.word_embeddings_untied_by_checkpoint is (apart and retie)


@pytest.mark.parametrize("untied", [True, False])
def test_a_snapshot_without_a_head_decides_nothing(untied: bool, tmp_path: Path) -> None:
    found = model_config(tied=not untied, untied=untied)
    thaw.freeze({"model.embed_tokens.weight": EMBEDDINGS}, tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        tie_as_frozen(found, snapshot, retie=False)
    assert found.hf_config.tie_word_embeddings is not untied
    assert found.word_embeddings_untied_by_checkpoint is untied


def test_a_model_that_is_not_tied_by_its_configuration_stays_so(tmp_path: Path) -> None:
    found = model_config(tied=False, untied=False)
    thaw.freeze(HEADS["tied"], tmp_path / "a.thaw")
    with thaw.open(tmp_path / "a.thaw") as snapshot:
        tie_as_frozen(found, snapshot, retie=True)
    assert not found.hf_config.tie_word_embeddings
