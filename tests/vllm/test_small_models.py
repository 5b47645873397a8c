"""Small models of many architectures: what is held of each, and what engines make of it.

Every run compares, without an engine, what workers hold of a few; the matrix does so of all, and
has engines with the weights of each kind of snapshot run them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import small_models

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 900
MATRIX_LIMIT_S = 5400
UNPACKED = {"worker_extension_cls": "extension.Extension"}
COMPARED = {"allow_unverified": True}
OTHERS = [name for name in small_models.MODELS if name not in small_models.ALWAYS]
# vLLM starts no engine of these without a tokenizer, and they have none: workers are compared.
UNSERVED = {
    *("bert", "minilm", "roberta", "roberta-reranker", "modernbert"),
    *("qwen3-embedder", "llama-reward"),
}
SERVED = [name for name in small_models.MODELS if name not in UNSERVED]
Steps = list[tuple[str, str, dict[str, Any]]]


def states(names: Sequence[str]) -> Steps:
    """Save all of them first: running some by transformers changes how it makes others."""
    return [
        ("here", "multiprocessing", {"on": False}),
        *((f"{name}: saved", "save_small", {"name": name}) for name in names),
        *((name, "states", {"model": name, **small_models.MODELS[name].engine}) for name in names),
    ]


def engines(name: str) -> Steps:
    small = small_models.MODELS[name]
    engine = {"model": name, **small.engine, **UNPACKED}
    return [
        (f"{name}: saved", "save_small", {"name": name}),
        (f"{name}: default", "start", engine),
        (f"{name}: expected", small.does, {}),
        (f"{name}: live frozen", "freeze_live", {"path": f"{name} live.thaw", **COMPARED}),
        (f"{name}: default stopped", "stop", {}),
        (f"{name}: frozen", "freeze", engine | {"path": f"{name}.thaw"}),
        *(
            step
            for way, path in (("loaded", f"{name}.thaw"), ("processed", f"{name} live.thaw"))
            for step in (
                (f"{name}: {way}", "load", engine | {"snapshot": path, **COMPARED}),
                (f"{name}: {way} found", small.does, {}),
                (f"{name}: {way} stopped", "stop", {}),
            )
        ),
    ]


def check(answers: Any, name: str) -> None:
    found = answers.value(name)
    assert {way: found[way] for way in ("loaded", "processed", "restored")} == {
        "loaded": [],
        "processed": [],
        "restored": [],
    }
    assert found["state"] >= found["live"] >= found["tensors"] > 10


@pytest.fixture(scope="session")
def always(run_engines: Callable[..., Any]) -> Any:
    return run_engines("small-models", states(small_models.ALWAYS), limit_s=LIMIT_S)


@pytest.fixture(scope="session")
def others(run_engines: Callable[..., Any]) -> Any:
    return run_engines("more-small-models", states(OTHERS), limit_s=MATRIX_LIMIT_S)


@pytest.mark.parametrize("name", small_models.ALWAYS)
def test_workers_hold_what_the_default_loader_gives_them(always: Any, name: str) -> None:
    check(always, name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", OTHERS)
def test_workers_hold_the_same_of_every_architecture(others: Any, name: str) -> None:
    check(others, name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", SERVED)
def test_engines_make_the_same_of_every_architecture(
    run_engines: Callable[..., Any], name: str
) -> None:
    steps = [("here", "multiprocessing", {"on": False}), *engines(name)]
    answers = run_engines(f"engines-{name}", steps, limit_s=LIMIT_S)
    expected = answers.value(f"{name}: expected")
    assert expected
    for way in ("loaded", "processed"):
        assert answers.value(f"{name}: {way} found") == expected, way
