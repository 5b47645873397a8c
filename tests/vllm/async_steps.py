"""What `drive.py` does with an `AsyncLLM`, in an event loop that stays from step to step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import Any

LONG = 200
SHORT = 16


class AsyncSteps:
    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._engine: Any = None
        self._requests = 0

    def async_start(self, **engine: Any) -> None:
        async def start() -> Any:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            return AsyncLLM.from_engine_args(AsyncEngineArgs(**engine))

        self._engine = self._run(start())

    def async_stop(self) -> None:
        engine, self._engine = self._engine, None
        engine.shutdown()
        self._runner.close()

    def async_decode(self, prompts: Sequence[Sequence[int]]) -> list[Any]:
        """Decode greedily, one by one: the tokens, and how many of each prompt were cached."""

        async def decode() -> list[Any]:
            return [await self._decode(prompt, SHORT) for prompt in prompts]

        return self._run(decode())

    def async_freeze(self, path: str) -> dict[str, Any]:
        import thaw_vllm

        return _said(self._run(thaw_vllm.freeze_engine(self._engine, path)))

    def async_restore(self, path: str, **options: Any) -> dict[str, Any]:
        import thaw_vllm

        return _said(self._run(thaw_vllm.restore_engine(self._engine, path, **options)))

    def async_pin(self, path: str) -> None:
        import thaw_vllm

        self._run(thaw_vllm.pin_engine(self._engine, path))

    def async_unpin(self, path: str) -> None:
        import thaw_vllm

        self._run(thaw_vllm.unpin_engine(self._engine, path))

    def async_verify(self, path: str) -> list[str]:
        import thaw_vllm

        return list(self._run(thaw_vllm.verify(self._engine, path)).differences)

    def async_restore_running(
        self, path: str, prompt: Sequence[int], **options: Any
    ) -> dict[str, Any]:
        """Restore while a prompt is decoded; ask for another one in the middle of that."""
        return self._run(self._restore_running(path, prompt, options))

    async def _restore_running(
        self, path: str, prompt: Sequence[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        import thaw_vllm

        begun = asyncio.Event()
        decoding = asyncio.create_task(self._decode(prompt, LONG, begun))
        await begun.wait()
        restoring = asyncio.create_task(thaw_vllm.restore_engine(self._engine, path, **options))
        await asyncio.sleep(0)
        late = asyncio.create_task(self._decode(prompt, SHORT))
        found = await asyncio.gather(decoding, restoring, late, return_exceptions=True)
        return {
            name: f"{type(each).__name__}: {each}" if isinstance(each, Exception) else ""
            for name, each in zip(("decoding", "restoring", "late"), found, strict=True)
        } | {"tokens": [] if isinstance(found[0], BaseException) else found[0]["tokens"]}

    async def _decode(
        self, prompt: Sequence[int], tokens: int, begun: asyncio.Event | None = None
    ) -> dict[str, Any]:
        from vllm import SamplingParams

        self._requests += 1
        parameters = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        request = {"prompt_token_ids": list(prompt)}, parameters, f"request {self._requests}"
        last: Any = None
        async for last in self._engine.generate(*request):  # noqa: B007 - it counts when all came
            if begun:
                begun.set()
        return {"tokens": list(last.outputs[0].token_ids), "cached": last.num_cached_tokens}

    def roll(self, source: str, path: str) -> None:
        """Copy a snapshot with token `n` in the place of token `n - 1`, going in and coming out."""
        import thaw

        tensors = dict(thaw.restore(source))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name].roll(1, 0)
        with thaw.open(source) as snapshot:
            thaw.freeze(tensors, path, metadata=snapshot.metadata)

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(steps)


def _said(report: Any) -> dict[str, Any]:
    return asdict(report) | {"path": str(report.path)}
