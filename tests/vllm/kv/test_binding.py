"""In what a session differs from an engine: the first thing, with both values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_requests import FULL, binding
from made_sessions import BLOCK, ENGINE, LAYERS, session

from thaw.vllm.kv.binding import GroupOf, compare
from thaw.vllm.kv.record import Group, Layer

LAYER = session().layers[LAYERS[0]]
OTHERS: list[tuple[Layer, str]] = [
    (replace(LAYER, shape=(2, None, BLOCK, 2)), "shape=(2, None, 16, 2)"),
    (replace(LAYER, order=(0, 2, 1, 3)), "order=(0, 2, 1, 3)"),
    (replace(LAYER, rows_per_block=2), "rows_per_block=2"),
    (replace(LAYER, backend="OTHER"), "backend='OTHER'"),
    (replace(LAYER, cache_dtype="fp8"), "cache_dtype='fp8'"),
]


def test_the_same_differ_in_nothing() -> None:
    assert compare([session()], [binding()]) is None
    assert compare([session()] * 2, [binding(0), binding(1)]) is None


@pytest.mark.parametrize(("layer", "said"), OTHERS)
def test_the_layout_of_one_layer_is_enough(layer: Layer, said: str) -> None:
    found = compare([session()], [binding(layers={LAYERS[0]: LAYER, LAYERS[1]: layer})])
    assert found is not None
    assert found.reason == "layout"
    assert LAYERS[1] in found.line
    assert said in found.line
    back = compare([session(layers={LAYERS[0]: layer, LAYERS[1]: LAYER})], [binding()])
    assert back is not None
    assert said in back.line


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "float32"), ("model", "Other"), ("vllm", "0.32.0"), ("new", "x")],
)
def test_the_engine_is_compared_field_by_field(field: str, value: str) -> None:
    for theirs, ours in ((ENGINE, ENGINE | {field: value}), (ENGINE | {field: value}, ENGINE)):
        found = compare([session(engine=theirs)], [binding(engine=ours)])
        assert found is not None
        assert found.reason == "engine"
        assert field in found.line
        assert value in found.line
        assert str(ENGINE.get(field, "")) in found.line


def test_weights_are_the_last_word_and_have_both_fingerprints() -> None:
    found = compare([session(fingerprint="1a" * 32)], [binding(fingerprint="2b" * 32)])
    assert found is not None
    assert found.reason == "weights"
    assert "1a1a1a1a" in found.line
    assert "2b2b2b2b" in found.line


def test_the_size_of_blocks_comes_first() -> None:
    other = GroupOf("full", 32, None, LAYERS)
    found = compare([session()], [binding(groups=(other,), fingerprint="2b" * 32)])
    assert found is not None
    assert found.reason == "block-size"
    assert "of 16 tokens, this engine's of 32" in found.line


@pytest.mark.parametrize(
    "groups",
    [
        (GroupOf("sliding-window", BLOCK, 64, LAYERS),),
        (GroupOf("full", BLOCK, None, LAYERS[:1]),),
        (GroupOf("full", BLOCK, None, (*LAYERS, "more")),),
        (GroupOf("full", BLOCK, None, LAYERS[:1]), GroupOf("full", BLOCK, None, LAYERS[1:])),
    ],
)
def test_groups_are_the_same_ones(groups: tuple[GroupOf, ...]) -> None:
    found = compare([session()], [binding(groups=groups)])
    assert found is not None
    assert found.reason in ("groups", "block-size")
    assert (found.reason == "block-size") == (len(groups) > 1)


def test_a_window_of_another_width_is_another_group() -> None:
    theirs = session(groups=(Group("sliding-window", BLOCK, 48, 0, 4, LAYERS),))
    found = compare([theirs], [binding(groups=(GroupOf("sliding-window", BLOCK, 64, LAYERS),))])
    assert found is not None
    assert found.reason == "groups"
    assert "48" in found.line
    assert "64" in found.line


@pytest.mark.parametrize(("theirs", "ours"), [(1, 2), (2, 1), (4, 2)])
def test_other_numbers_of_ranks_are_named(theirs: int, ours: int) -> None:
    found = compare([session()] * theirs, [binding(rank) for rank in range(ours)])
    assert found is not None
    assert found.reason == "ranks"
    assert f"it has {theirs} ranks, this engine has {ours}" in found.line


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_differs_is_named(rank: int) -> None:
    members: list[dict[str, Any]] = [{}, {}]
    members[rank] = {"fingerprint": "2b" * 32}
    found = compare([session()] * 2, [binding(at, **each) for at, each in enumerate(members)])
    assert found is not None
    assert found.line.startswith(f"rank {rank}: ")
    assert FULL.layers == LAYERS
