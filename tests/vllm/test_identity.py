"""What a model's configuration counts for in the identity of a snapshot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from thaw.vllm.identity import _digest

CONFIG: dict[str, Any] = {
    "model_type": "made",
    "dtype": "float32",
    "_name_or_path": "here",
    "hidden_size": 64,
    "text_config": {"model_type": "made_text", "torch_dtype": "float32", "layers": 2},
    "quantization_config": {"quant_method": "made", "dtype": "int8", "groups": [{"dtype": "int8"}]},
}
Change = Callable[[dict[str, Any]], object]
SAME: list[Change] = [
    lambda config: config.update(dtype="bfloat16"),
    lambda config: config.pop("dtype"),
    lambda config: config.update(_name_or_path="there", transformers_version="9"),
    lambda config: config["text_config"].update(torch_dtype="bfloat16"),
]
OTHER: list[Change] = [
    lambda config: config.update(hidden_size=65),
    lambda config: config["text_config"].update(layers=3),
    lambda config: config["quantization_config"].update(dtype="int4"),
    lambda config: config["quantization_config"]["groups"][0].update(dtype="int4"),
    lambda config: config.update(model_type="other"),
]


def changed(change: Change) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    change(config)
    return config


@pytest.mark.parametrize("change", SAME)
def test_where_a_model_came_from_and_what_it_runs_in_do_not_count(change: Change) -> None:
    assert _digest(changed(change)) == _digest(CONFIG)


@pytest.mark.parametrize("change", OTHER)
def test_what_a_model_is_counts(change: Change) -> None:
    assert _digest(changed(change)) != _digest(CONFIG)
