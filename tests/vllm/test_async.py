"""A real AsyncLLM, whose core is another process: weights are swapped, or not, while it serves.

`rolled.thaw` has token `n` in the place of token `n - 1`: of prompts that are moved by one the
engine has to make what it made of the prompts, moved by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 300
PROMPTS = [[1, 2, 3, 4, 5], list(range(40)), [7]]
MOVED = [[token + 1 for token in prompt] for prompt in PROMPTS]
WORDS = 1024
LONG = {"prompt": PROMPTS[0]}
STEPS = [
    ("llama", "save", {"name": "llama"}),
    ("started", "start_async", {"model": "llama", "worker_extension_cls": "unlocked.Unlocked"}),
    ("decoded", "async_decode", {"prompts": PROMPTS}),
    ("decoded again", "async_decode", {"prompts": PROMPTS}),
    ("frozen", "async_freeze", {"path": "live.thaw"}),
    ("verified", "async_verify", {"path": "live.thaw"}),
    ("rolled", "roll", {"source": "live.thaw", "path": "rolled.thaw"}),
    ("differs", "async_verify", {"path": "rolled.thaw"}),
    ("refused", "async_restore_running", {"path": "rolled.thaw", **LONG}),
    ("verified after", "async_verify", {"path": "live.thaw"}),
    ("waited", "async_restore_running", {"path": "live.thaw", "wait_s": 60, **LONG}),
    ("swapped", "async_restore", {"path": "rolled.thaw"}),
    ("swapped verified", "async_verify", {"path": "rolled.thaw"}),
    ("swapped decoded", "async_decode", {"prompts": MOVED}),
    ("damaged", "flip", {"source": "live.thaw", "path": "damaged.thaw"}),
    ("failed", "async_restore", {"path": "damaged.thaw"}),
    ("failed decoded", "async_decode", {"prompts": PROMPTS}),
    ("failed frozen", "async_freeze", {"path": "half.thaw"}),
    ("pinned", "async_pin", {"path": "live.thaw"}),
    ("healed", "async_restore", {"path": "live.thaw"}),
    ("unpinned", "async_unpin", {"path": "live.thaw"}),
    ("healed decoded", "async_decode", {"prompts": PROMPTS}),
    ("stopped", "async_stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("async", STEPS, limit_s=LIMIT_S)


def tokens(decoded: Sequence[Any]) -> list[Any]:
    return [each["tokens"] for each in decoded]


def cached(decoded: Sequence[Any]) -> list[int]:
    return [each["cached"] for each in decoded]


def test_a_snapshot_of_it_has_its_weights(answers: Any) -> None:
    assert answers.value("frozen")["ranks"] == 1
    assert answers.value("verified") == []
    assert "rank 0: 'lm_head.weight' differs" in str(answers.value("differs"))


def test_it_takes_other_weights_and_forgets_what_it_made_with_the_old_ones(answers: Any) -> None:
    before = tokens(answers.value("decoded"))
    assert len({token for each in before for token in each}) > 3
    moved = [[(token + 1) % WORDS for token in each] for each in before]
    assert tokens(answers.value("swapped decoded")) == moved
    assert answers.value("swapped verified") == []


def test_its_prefix_cache_is_reset(answers: Any) -> None:
    assert cached(answers.value("decoded")) == [0, 0, 0]
    assert cached(answers.value("decoded again")) == [0, 32, 0]
    assert cached(answers.value("healed decoded")) == [0, 0, 0]


def test_weights_are_not_swapped_while_a_request_runs(answers: Any) -> None:
    refused = answers.value("refused")
    assert refused["restoring"].startswith("ThawError: requests are running: let them end")
    assert refused["decoding"] == ""
    assert answers.value("verified after") == []


def test_a_request_that_runs_is_waited_for_and_no_other_taken(answers: Any) -> None:
    waited = answers.value("waited")
    assert (waited["restoring"], waited["decoding"]) == ("", "")
    assert waited["late"].startswith("ThawError: this engine serves nothing")
    # Both have decoded all of it by the same weights.
    assert waited["tokens"] == answers.value("refused")["tokens"]


def test_nothing_is_served_or_frozen_after_a_restore_that_failed(answers: Any) -> None:
    assert "fails its CRC32C" in answers["failed"].error
    refused = answers["failed decoded"].error
    assert refused.startswith("ThawError: this engine serves nothing: its weights are undefined")
    assert "damaged.thaw" in refused
    assert "the weights of this engine are undefined" in answers["failed frozen"].error


def test_a_restore_from_what_is_pinned_heals_it(answers: Any) -> None:
    for label in ("pinned", "healed", "unpinned"):
        answers.value(label)
    assert tokens(answers.value("healed decoded")) == tokens(answers.value("decoded"))


def test_it_ends(answers: Any) -> None:
    answers.value("stopped")
