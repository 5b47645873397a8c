"""What thaw needs of `vllm.LLM` and `AsyncLLM`, made up: as many ranks as wanted, and no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

DONE = {"rank": 0, "nbytes": 3, "elapsed_s": 0.5, "tensors": 1, "backend": "reference"}


def config(**parallel: Any) -> Any:
    known = {"world_size": 1, "data_parallel_size": 1, "data_parallel_external_lb": False}
    return SimpleNamespace(parallel_config=SimpleNamespace(**(known | parallel)))


class Workers:
    """Note what they are asked for, and answer what they are told to; by itself, that all is well.

    Attributes:
        calls: verbs and their arguments, in order.
        answers: of a verb, what is answered in place of that; an error is raised.
        resets: which caches were reset.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.resets: list[str] = []
        self.prefix_cache_resets = True

    def ask(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        assert method == "thaw"
        self.calls.append(args)
        answer = self.answers.get(args[0], DONE | {"differences": []})
        if isinstance(answer, BaseException):
            raise answer
        return [answer]

    def reset_prefix_cache(self) -> bool:
        self.resets.append("prefix")
        return self.prefix_cache_resets

    def reset_encoder_cache(self) -> None:
        self.resets.append("encoder")


class LLMEngine:
    def __init__(self, workers: Workers) -> None:
        self.vllm_config = config()
        self.requests: set[str] = set()
        self.reset_encoder_cache = workers.reset_encoder_cache

    def add_request(self, request: str) -> str:
        self.requests.add(request)
        return request

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)


class LLM:
    def __init__(self) -> None:
        self.workers = Workers()
        self.llm_engine = LLMEngine(self.workers)
        self.requests = self.llm_engine.requests

    async def enter(self, request: str) -> str:
        return self.llm_engine.add_request(request)

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        return self.workers.ask(method, args)

    def reset_prefix_cache(self, *, reset_connector: bool) -> bool:
        assert reset_connector
        return self.workers.reset_prefix_cache()


class OutputProcessor:
    def __init__(self) -> None:
        self.request_states: dict[str, Any] = {}

    def add_request(self, request: Any, prompt: Any = None) -> None:
        self.request_states[request.request_id] = prompt

    def has_unfinished_requests(self) -> bool:
        return bool(self.request_states)


class AsyncLLM:
    """Its requests wait for `rendered` between the two doors."""

    errored = False

    def __init__(self, *, clients: int = 1, **parallel: Any) -> None:
        self.workers = Workers()
        self.vllm_config = config(**parallel)
        self._client_count = clients
        self.output_processor = OutputProcessor()
        self.requests = self.output_processor.request_states
        self.rendered: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def enter(self, request: str) -> str:
        return await self.add_request(request)

    async def add_request(self, request: str) -> str:
        await self.rendered()
        self.output_processor.add_request(SimpleNamespace(request_id=request))
        return request

    async def generate(self, request: str) -> Any:
        yield await self.add_request(request)

    async def encode(self, request: str) -> Any:
        yield await self.add_request(request)

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        return self.workers.ask(method, args)

    async def reset_prefix_cache(self, *, reset_connector: bool) -> bool:
        assert reset_connector
        await asyncio.sleep(0)
        return self.workers.reset_prefix_cache()

    async def reset_encoder_cache(self) -> None:
        await asyncio.sleep(0)
        self.workers.reset_encoder_cache()
