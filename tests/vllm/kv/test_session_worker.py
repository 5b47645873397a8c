"""What a worker's side of the connector refuses when it takes its caches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from thaw.vllm.agent import know

pytestmark = [pytest.mark.vllm, pytest.mark.slow]  # importing vLLM takes long
worker = pytest.importorskip("thaw.vllm.kv.worker", exc_type=ImportError)
from thaw.errors import ThawError  # noqa: E402
from thaw.vllm.kv.settings import Settings  # noqa: E402


class Worker:
    def __init__(self) -> None:
        self.rank, self.vllm_config = 0, SimpleNamespace()


def test_caches_of_another_engine_are_refused() -> None:
    """vLLM hands them to the connector of an engine of before that did not start to its end."""
    first, second = Worker(), Worker()
    know(first)
    caches = SimpleNamespace(kv_cache_groups=[], num_blocks=3)
    sessions = worker.SessionWorker(first.vllm_config, caches, Settings(sessions="sessions"))
    know(second)
    with pytest.raises(ThawError, match="the connector of another engine, which did not start"):
        sessions.register({})
