"""What the connector mends of releases that know failed loads of one kind of group alone."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]  # importing vLLM takes long
interface = pytest.importorskip("vllm.v1.kv_cache_interface")
from thaw.vllm.kv import releases  # noqa: E402

HEADS: dict[str, Any] = {"block_size": 16, "num_kv_heads": 2, "head_size": 64, "dtype": None}
THEIRS = {"theirs"}, 1, {2}


def scheduler(*specs: Any, failed: bool = True) -> Any:
    """Make a scheduler with one request, whose second block did not load."""

    class Scheduler:
        def _update_requests_with_invalid_blocks(
            self, requests: Iterable[Any], invalid: set[int], scheduled: dict[str, int], evict: bool
        ) -> Any:
            return THEIRS

    releases.take_failed_loads(Scheduler)
    made: Any = Scheduler()
    made.kv_cache_config = SimpleNamespace(
        kv_cache_groups=[SimpleNamespace(layer_names=["a"], kv_cache_spec=each) for each in specs]
    )
    # The null block stands where a window has passed.
    blocks = ([0, 7],) * len(specs)
    made.kv_cache_manager = SimpleNamespace(get_block_ids=lambda request_id: blocks)
    return made


def full() -> Any:
    return interface.FullAttentionSpec(**HEADS)


def window() -> Any:
    return interface.SlidingWindowSpec(**HEADS, sliding_window=16)


@pytest.mark.parametrize("kinds", [(window,), (full, window), (full, full)])
def test_all_of_a_request_is_computed_again_where_blocks_are_missing(kinds: Any) -> None:
    """Behind what a window needs there is nothing that a shorter prefix could go on from."""
    made = scheduler(*(each() for each in kinds))
    request = SimpleNamespace(request_id="a", num_computed_tokens=32)
    other = SimpleNamespace(request_id="b", num_computed_tokens=32)
    found = made._update_requests_with_invalid_blocks([request, other], {7}, {"b": 1}, True)
    assert found == ({"a"}, 32, set())
    assert (request.num_computed_tokens, other.num_computed_tokens) == (0, 32)


def test_where_all_is_kept_vllm_s_own_way_stays() -> None:
    made = scheduler(full())
    assert made._update_requests_with_invalid_blocks([], {7}, {}, True) is THEIRS
