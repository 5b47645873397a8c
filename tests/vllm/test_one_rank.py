"""Real engines with one rank: what they decode, how they are served, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 480
LLAMA = {"model": "llama", "snapshot": "llama.thaw"}
UNPACKED = {"worker_extension_cls": "extension.Extension"}
WEIGHT = "model.layers.1.mlp.down_proj.weight"
SERVED = ["--model=llama", "--load-format=thaw", "--model-loader-extra-config"]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": (
        {"model": "qwen2"},
        "model is LlamaForCausalLM in the snapshot, Qwen2ForCausalLM in this engine",
    ),
    "another configuration": ({"model": "llama-tied"}, "the model's configuration differs"),
    "another dtype": (
        {"dtype": "float32"},
        "dtype is bfloat16 in the snapshot, float32 in this engine",
    ),
    "another quantization": (
        {"quantization": "fp8"},
        "quantization is none in the snapshot, fp8 in this engine",
    ),
    "not of vLLM": ({"snapshot": "llama"}, "was not frozen from a vLLM engine"),
    "no file": ({"snapshot": "nothing.thaw"}, "No such file or directory"),
    "a flipped bit": ({"snapshot": "flipped.thaw"}, "fails its CRC32C"),
    "a tensor less": ({"snapshot": "less.thaw"}, f"'{WEIGHT}' is not in the snapshot"),
    "a tensor more": ({"snapshot": "more.thaw"}, "'appeared' is not in the model"),
}
STEPS = [
    ("llama", "save", {"name": "llama"}),
    ("llama-tied", "save", {"name": "llama-tied"}),
    ("qwen2", "save", {"name": "qwen2"}),
    ("frozen", "freeze", {"model": "llama", "path": "llama.thaw"}),
    ("flipped", "flip", {"source": "llama.thaw", "path": "flipped.thaw"}),
    ("less", "edit", {"source": "llama.thaw", "path": "less.thaw", "drop": WEIGHT}),
    ("more", "edit", {"source": "llama.thaw", "path": "more.thaw", "add": "appeared"}),
    ("served", "serve", {"options": [*SERVED, json.dumps({"snapshot": "llama.thaw"})]}),
    ("apart", "multiprocessing", {"on": True}),
    ("apart loaded", "load", LLAMA),
    ("apart decoded", "decode", {}),
    ("apart stopped", "stop", {}),
    ("apart live", "start", {"model": "llama", **UNPACKED}),
    ("killed", "freeze_live", {"path": "deadly.thaw"}),
    ("apart stopped again", "stop", {}),
    ("here", "multiprocessing", {"on": False}),
    ("default", "start", {"model": "llama"}),
    ("default decoded", "decode", {}),
    ("default stopped", "stop", {}),
    *((label, "load", LLAMA | options) for label, (options, _) in FAULTS.items()),
    (
        "an unknown option",
        "start",
        {
            "model": "llama",
            "load_format": "thaw",
            "model_loader_extra_config": {"snapshot": "llama.thaw", "snapshots": 1},
        },
    ),
    ("loaded", "load", LLAMA | {"verify": True}),
    ("decoded", "decode", {}),
    ("packs", "packs", {}),
    ("verified late", "verify", {"path": "llama.thaw"}),
    ("stopped", "stop", {}),
    ("other", "save", {"name": "llama", "folder": "other", "seed": 1}),
    ("other started", "start", {"model": "other", **UNPACKED}),
    ("other decoded", "decode", {}),
    ("other frozen", "freeze_live", {"path": "other.thaw"}),
    ("other stopped", "stop", {}),
    ("live", "start", {"model": "llama", **UNPACKED}),
    ("live decoded", "decode", {}),
    ("loaded refused", "restore_live", {"path": "llama.thaw"}),
    ("live differs", "verify", {"path": "other.thaw"}),
    ("narrow", "narrow", {"source": "other.thaw", "path": "narrow.thaw", "name": WEIGHT}),
    ("narrow refused", "restore_live", {"path": "narrow.thaw"}),
    ("backend refused", "restore_live", {"path": "other.thaw", "backend": "nothing"}),
    ("running refused", "restore_running", {"path": "other.thaw"}),
    ("live decoded again", "decode", {}),
    ("running waited for", "restore_running", {"path": "other.thaw", "wait_s": 60}),
    ("waited verified", "verify", {"path": "other.thaw"}),
    ("swapped", "restore_live", {"path": "other.thaw"}),
    ("swapped decoded", "decode", {}),
    ("swapped verified", "verify", {"path": "other.thaw"}),
    ("live stopped", "stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("one-rank", STEPS, limit_s=LIMIT_S)


@pytest.mark.parametrize("decoded", ["decoded", "apart decoded"])
def test_decodes_what_the_default_loader_s_weights_decode(answers: Any, decoded: str) -> None:
    # Faults came before: none may stay in the process.
    expected = answers.value("default decoded")
    assert len({token for each in expected for token in each["tokens"]}) > 3
    assert answers.value(decoded) == expected


def test_a_server_completes_what_the_default_loader_s_engine_decodes(answers: Any) -> None:
    expected = [each["tokens"] for each in answers.value("default decoded")]
    assert answers.value("served") == expected


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_by_name(answers: Any, fault: str) -> None:
    assert FAULTS[fault][1] in answers[fault].error


def test_an_unknown_option_is_refused_by_name(answers: Any) -> None:
    assert "does not know 'snapshots'" in answers["an unknown option"].error


def test_an_engine_that_dies_while_it_freezes_leaves_no_snapshot(answers: Any) -> None:
    answers.value("apart live")
    assert answers["killed"].error
    assert list(answers.folder.glob(".deadly.thaw.*.partial"))
    assert not (answers.folder / "deadly.thaw").exists()


def test_a_live_engine_takes_the_weights_of_another(answers: Any) -> None:
    # The prompts were decoded before: their blocks in the prefix cache are the old weights'.
    assert answers.value("swapped decoded") == answers.value("other decoded")
    assert answers.value("swapped decoded") != answers.value("live decoded")


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("narrow refused", f"{WEIGHT!r} has shape"),
        ("backend refused", "there is no backend 'nothing'"),
    ],
)
def test_what_cannot_be_restored_leaves_a_live_engine_as_it_was(
    answers: Any, refused: str, said: str
) -> None:
    assert said in answers[refused].error
    assert answers.value("live decoded again") == answers.value("live decoded")


def test_weights_are_not_swapped_while_requests_run(answers: Any) -> None:
    refused = answers.value("running refused")
    assert refused["restoring"].startswith("ThawError: requests are running: let them end")
    assert refused["decoding"] == ""
    assert answers.value("live decoded again") == answers.value("live decoded")


def test_requests_are_waited_for_and_no_others_taken_meanwhile(answers: Any) -> None:
    waited = answers.value("running waited for")
    assert waited["restoring"] == ""
    # Of three prompts, one by one, the first was running.
    assert waited["decoding"].startswith("ThawError: this engine serves nothing")
    assert answers.value("waited verified") == []


def test_verify_names_what_differs_in_a_live_engine(answers: Any) -> None:
    assert f"rank 0: {WEIGHT!r} differs" in answers.value("live differs")
    assert answers.value("swapped verified") == []


def test_verify_says_that_weights_were_processed_since(answers: Any) -> None:
    if answers.value("packs"):
        late = answers["verified late"].error
        assert "was frozen before vLLM processed the weights, and they are processed now" in late
    else:
        assert answers.value("verified late") == []


def test_a_live_engine_refuses_what_was_frozen_before_processing(answers: Any) -> None:
    assert "is a 'loaded' snapshot" in answers["loaded refused"].error
