"""What a model's configuration counts for in the identity of a snapshot, key by key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import thaw
from thaw.vllm.weights.configuration import (
    Configuration,
    compare_configurations,
    configuration_of,
    flatten,
    keep_configuration,
    tell_apart,
)
from thaw.vllm.weights.identity import check_identity
from thaw.vllm.worker import keep_configurations

CONFIG: dict[str, Any] = {
    "model_type": "made",
    "dtype": "float32",
    "_name_or_path": "here",
    "hidden_size": 64,
    "epsilon": 1e-6,
    "limit": [0.0, float("inf")],
    "text_config": {
        "model_type": "made_text",
        "torch_dtype": "float32",
        "layers": 2,
        "layer_types": ["full", "full", "sliding"],
    },
    "quantization_config": {"quant_method": "made", "dtype": "int8", "groups": [{"dtype": "int8"}]},
}
Change = Callable[[dict[str, Any]], object]
SAME: list[Change] = [
    lambda config: config.update(dtype="bfloat16"),
    lambda config: config.pop("dtype"),
    lambda config: config.update(_name_or_path="there", transformers_version="9"),
    lambda config: config["text_config"].update(torch_dtype="bfloat16"),
    lambda config: config.update(hidden_size=64.0),
    lambda config: config.update(nothing=None),
]
QUANTIZATION = "quantization_config"
OTHER: list[tuple[Change, tuple[str, str, str]]] = [
    (lambda config: config.update(hidden_size=65), ("hidden_size is", "64", "65")),
    (lambda config: config.update(epsilon=1e-5), ("epsilon is", '"1e-06"', '"1e-05"')),
    (lambda config: config.pop("hidden_size"), ("hidden_size is", "64", "not there")),
    (lambda config: config["text_config"].update(layers=3), ("text_config.layers is", "2", "3")),
    (
        lambda config: config["text_config"].update(layer_types=["full", "sliding", "sliding"]),
        ("text_config.layer_types[1] is", '"full"', '"sliding"'),
    ),
    (
        lambda config: config["text_config"].update(layer_types=["full"]),
        ("text_config.layer_types has", "3 entries", "1"),
    ),
    (
        lambda config: config[QUANTIZATION].update(dtype="int4"),
        (f"{QUANTIZATION}.dtype is", '"int8"', '"int4"'),
    ),
    (
        lambda config: config[QUANTIZATION]["groups"][0].update(dtype="int4"),
        (f"{QUANTIZATION}.groups[0].dtype is", '"int8"', '"int4"'),
    ),
    (lambda config: config.update(model_type="x"), ("model_type is", '"made"', '"x"')),
]


def changed(change: Change) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    change(config)
    return config


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    recorded = json.loads(json.dumps(Configuration(flatten(one), {}).record()))
    return compare_configurations(recorded, Configuration(flatten(other), {}))


@pytest.mark.parametrize("change", SAME)
def test_where_a_model_came_from_and_what_it_runs_in_do_not_count(change: Change) -> None:
    assert compare(CONFIG, changed(change)) == []


@pytest.mark.parametrize(("change", "expected"), OTHER)
def test_what_a_model_is_counts_and_is_named(
    change: Change, expected: tuple[str, str, str]
) -> None:
    assert compare(CONFIG, changed(change)) == [expected]


def model_config(folder: Path, written: Mapping[str, Any], **settings: Any) -> Any:
    """Stand in for vLLM's, with the configuration that transformers reads."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(written))
    config = transformers.AutoConfig.from_pretrained(folder)
    plain = {"model": str(folder), "revision": None, "hf_overrides": {}, "hf_config": config}
    return SimpleNamespace(**(plain | settings))


def differences(one: Any, other: Any) -> list[tuple[str, str, str]]:
    recorded = json.loads(json.dumps(configuration_of(one).record()))
    return compare_configurations(recorded, configuration_of(other))


YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 0.7}
DEEPSEEK = {
    "model_type": "deepseek_v2",
    "architectures": ["DeepseekV2ForCausalLM"],
    "hidden_size": 64,
    "rope_theta": 10000,
    "rope_scaling": YARN,
    "torch_dtype": "bfloat16",
}


def test_a_default_of_another_transformers_does_not_count(tmp_path: Path) -> None:
    now, before = (model_config(tmp_path / "m", DEEPSEEK) for _ in range(2))
    del before.hf_config.output_router_logits
    now.hf_config.use_cache = not before.hf_config.use_cache
    assert differences(before, now) == differences(now, before) == []


def test_a_key_that_the_file_states_counts_against_a_default(tmp_path: Path) -> None:
    stated = model_config(tmp_path / "a", DEEPSEEK | {"routed_scaling_factor": 2.5})
    default = model_config(tmp_path / "b", DEEPSEEK)
    expected = [("routed_scaling_factor is", '"2.5"', "1")]
    assert differences(stated, default) == expected
    assert differences(default, stated) == [("routed_scaling_factor is", "1", '"2.5"')]
    same = model_config(tmp_path / "c", DEEPSEEK | {"routed_scaling_factor": 1.0})
    assert differences(same, default) == differences(default, same) == []


@pytest.mark.parametrize(
    "written",
    [
        DEEPSEEK,
        {"model_type": "gpt2", "hidden_size": 64, "num_hidden_layers": 3},
        {
            "model_type": "gemma3",
            "text_config": {"hidden_size": 64, "rope_local_base_freq": 1e4, "rope_theta": 1e6},
            "vision_config": {"torch_dtype": "float32", "hidden_size": 32},
        },
        {"model_type": "mamba2", "time_step_limit": [0.0, float("inf")]},
    ],
    ids=lambda written: written["model_type"],
)
def test_a_file_that_transformers_wrote_anew_says_the_same(
    written: dict[str, Any], tmp_path: Path
) -> None:
    published = model_config(tmp_path / "a", written)
    published.hf_config.save_pretrained(tmp_path / "b")
    resaved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert resaved != written
    again = model_config(tmp_path / "b", resaved)
    assert differences(published, again) == differences(again, published) == []


@pytest.mark.parametrize("theta", [10000, None])
def test_rope_scaling_counts_wherever_transformers_puts_it(
    tmp_path: Path, theta: int | None
) -> None:
    one = model_config(tmp_path / "a", DEEPSEEK | {"rope_theta": theta or 10000})
    other = model_config(tmp_path / "b", DEEPSEEK | {"rope_scaling": YARN | {"factor": 41}})
    assert differences(one, other) == [("rope_parameters.factor is", "40", "41")]


def test_what_building_a_model_changes_is_not_seen(tmp_path: Path) -> None:
    built, other = (model_config(tmp_path / "m", DEEPSEEK) for _ in range(2))
    keep_configuration(built)
    built.hf_config.rope_parameters["rope_type"] = "deepseek_yarn"
    built.hf_config.hidden_size = 3
    assert differences(built, other) == differences(other, built) == []


def test_overrides_count_as_stated(tmp_path: Path) -> None:
    overridden = model_config(tmp_path / "m", DEEPSEEK, hf_overrides={"num_hidden_layers": 2})
    overridden.hf_config.num_hidden_layers = 2
    plain = model_config(tmp_path / "m", DEEPSEEK)
    layers = str(plain.hf_config.num_hidden_layers)
    assert differences(overridden, plain) == [("num_hidden_layers is", "2", layers)]


def test_without_a_file_all_counts(tmp_path: Path) -> None:
    one, other = (model_config(tmp_path / "m", DEEPSEEK) for _ in range(2))
    (tmp_path / "m" / "config.json").unlink()
    other.hf_config.pretraining_tp += 1
    assert [key for key, *_ in differences(one, other)] == ["pretraining_tp is"]


def test_a_model_that_vllm_untied_is_the_one_of_its_file(tmp_path: Path) -> None:
    written = DEEPSEEK | {"tie_word_embeddings": True}
    untied = model_config(tmp_path / "m", written, word_embeddings_untied_by_checkpoint=True)
    untied.hf_config.tie_word_embeddings = False
    plain = model_config(tmp_path / "m", written, word_embeddings_untied_by_checkpoint=False)
    assert differences(untied, plain) == []


def test_a_configuration_that_cannot_be_read_harms_no_one_who_does_not_ask(
    tmp_path: Path,
) -> None:
    broken = model_config(tmp_path / "m", DEEPSEEK)
    (tmp_path / "m" / "config.json").write_text("<html>")
    keep_configuration(broken)
    with pytest.raises(thaw.MismatchError, match="configuration cannot be read: Expecting value"):
        configuration_of(broken)


def test_workers_keep_a_configuration_once_they_start(tmp_path: Path) -> None:
    class Worker:
        def __init__(self, found: Any) -> None:
            self.model_config, self.vllm_config = found, SimpleNamespace()

    keep_configurations(Worker)
    noting = Worker.__init__
    keep_configurations(Worker)
    assert Worker.__init__ is noting
    worker = Worker(model_config(tmp_path / "m", DEEPSEEK))
    worker.model_config.hf_config.hidden_size = 3
    assert configuration_of(worker.model_config).stated["hidden_size"] == 64


def frozen(path: Path, config: object) -> Path:
    identity = {"config": config, "dtype": "float32"}
    metadata = {"vllm": {"kind": "loaded", "identity": identity}}
    thaw.freeze({"weight": torch.zeros(2)}, path, metadata=metadata)
    return path


def test_an_error_names_the_key_and_both_values(tmp_path: Path) -> None:
    recorded = Configuration(flatten(CONFIG), {}).record()
    here = Configuration(flatten(changed(OTHER[0][0])), {}).record()
    with thaw.open(frozen(tmp_path / "a.thaw", recorded)) as snapshot:
        check_identity(snapshot, {"config": recorded, "dtype": "float32"})
        with pytest.raises(thaw.MismatchError) as caught:
            check_identity(snapshot, {"config": here, "dtype": "bfloat16"})
    assert caught.value.differences[0].startswith(
        "config.hidden_size is 64 in the snapshot, 65 in this engine (the model's configuration"
    )
    assert caught.value.differences[1].startswith("dtype is float32 in the snapshot, bfloat16")


@pytest.mark.parametrize("config", ["d277040154ffcaf2", None, {"stated": {}}])
def test_a_snapshot_with_no_more_than_a_digest_is_one_of_an_older_thaw(
    config: object, tmp_path: Path
) -> None:
    refused = pytest.raises(thaw.MismatchError, match=r"by an older thaw, .*: freeze it again")
    expected = {"config": Configuration({}, {}).record(), "dtype": "bfloat16"}
    with thaw.open(frozen(tmp_path / "a.thaw", config)) as snapshot, refused:
        check_identity(snapshot, expected)


def test_keys_are_told_apart_by_what_the_file_says() -> None:
    read = {"a": 1, "b": 2, "text_config.c": 3, "rope_parameters.factor": 4}
    said = {"alias": 1, "c": 9, "rope_scaling.factor": 4, "other": 5}
    found = tell_apart(read, said, {"alias": "a"})
    assert found.stated == {"a": 1, "text_config.c": 3, "rope_parameters.factor": 4, "other": 5}
    assert found.defaults == {"b": 2}
