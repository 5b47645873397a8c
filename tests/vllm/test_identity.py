"""Where a worker stands among the ranks and replicas of its engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from thaw_format import RankOf

import thaw
from thaw.vllm.weights.identity import check_identity, identify, rank_shard


def config(**parallel: Any) -> Any:
    plain = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "data_parallel_rank": 0,
        "enable_expert_parallel": False,
    }
    return SimpleNamespace(parallel_config=SimpleNamespace(**(plain | parallel)))


def model(*, experts: bool) -> Any:
    named = SimpleNamespace(architectures=["Made"], attribute_map={}, to_dict=dict)
    return SimpleNamespace(
        hf_config=named,
        hf_overrides={},
        model="/nowhere",
        revision=None,
        convert_type="none",
        architecture="Made",
        dtype="bfloat16",
        quantization=None,
        is_moe=experts,
    )


def test_replicas_have_the_ranks_of_one_engine() -> None:
    second = config(data_parallel_size=2, data_parallel_rank=1)
    for rank in (0, 1):
        assert (
            rank_shard(config(), rank) == rank_shard(second, rank) == rank_shard(second, rank + 2)
        )
    assert rank_shard(second, 3) == thaw.Shard(1, 2, RankOf(1, 2), RankOf(0, 1), None)


def test_experts_are_dealt_out_over_replicas_as_well() -> None:
    second = config(data_parallel_size=2, data_parallel_rank=1, enable_expert_parallel=True)
    assert [rank_shard(second, rank).ep for rank in (0, 1)] == [RankOf(2, 4), RankOf(3, 4)]


@pytest.mark.parametrize(
    ("replicas", "experts", "expected"),
    [(1, True, "none"), (2, False, "none"), (2, True, "1 of 2")],
)
def test_replicas_count_where_a_model_has_experts(
    replicas: int, experts: bool, expected: str
) -> None:
    pytest.importorskip("vllm")
    parallel = config(data_parallel_size=replicas, data_parallel_rank=replicas - 1)
    fields = identify(parallel, model(experts=experts), 0, "loaded")
    assert fields["data_parallel"] == expected


def test_another_replica_is_refused_by_name(tmp_path: Any) -> None:
    identity = {"data_parallel": "none"}
    thaw.freeze({}, tmp_path / "a.thaw", metadata={"vllm": {"identity": identity}})
    refused = pytest.raises(
        thaw.MismatchError,
        match=r"data_parallel is none in the snapshot, 1 of 2 in this engine \(replicas of a model",
    )
    with thaw.open(tmp_path / "a.thaw") as snapshot, refused:
        check_identity(snapshot, {"data_parallel": "1 of 2"})


def test_other_ways_to_deal_experts_out_are_recorded() -> None:
    pytest.importorskip("vllm")
    found = {
        way: identify(
            config(enable_expert_parallel=True, expert_placement_strategy=way),
            model(experts=True),
            1,
            "loaded",
        )["expert_parallel"]
        for way in ("linear", "round_robin")
    }
    assert found == {"linear": "1 of 2", "round_robin": "1 of 2, round_robin"}


def test_a_layout_that_snapshots_cannot_say_is_refused() -> None:
    with pytest.raises(thaw.MismatchError, match="prefill_context_parallel_size is more than 1"):
        rank_shard(config(prefill_context_parallel_size=2), 0)
