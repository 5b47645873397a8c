"""The engines of vLLM by one interface: `LLM`, which blocks, and `AsyncLLM`, which is awaited."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from thaw_format import ThawError

from .answers import Answer
from .engine import Door, Engine

_TURN = "_thaw_turn"
_LOOK_EVERY_S, _LAST_WORDS_S = 0.25, 2.0
_ENDED = "the engine's core ended before it answered: its log says why"
_Options = ParamSpec("_Options")
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


class BlockingLLM(Protocol):
    """What a `vllm.LLM` is told by."""

    llm_engine: Any

    @property
    def collective_rpc(self) -> Callable[..., list[Any]]: ...


class AwaitedLLM(Protocol):
    """What a `vllm.v1.engine.async_llm.AsyncLLM` is told by."""

    output_processor: Any

    @property
    def collective_rpc(self) -> Callable[..., Awaitable[Any]]: ...


class Verb(Protocol[_Options, _Result_co]):
    """A function that takes either engine: it returns a result, or what has to be awaited."""

    __name__: str

    @overload
    def __call__(
        self, llm: BlockingLLM, *args: _Options.args, **options: _Options.kwargs
    ) -> _Result_co: ...

    @overload
    def __call__(
        self, llm: AwaitedLLM, *args: _Options.args, **options: _Options.kwargs
    ) -> Coroutine[Any, Any, _Result_co]: ...


def for_engines(
    steps: Callable[Concatenate[Engine, _Options], Coroutine[Any, Any, _Result]],
) -> Verb[_Options, _Result]:
    """Make steps over an engine a function that takes those of vLLM, one call after the other."""

    @wraps(steps)
    def verb(llm: Any, *args: _Options.args, **options: _Options.kwargs) -> Any:
        engine = engine_of(llm)

        async def in_turn() -> _Result:
            async with engine.turn():
                return await steps(engine, *args, **options)

        return engine.run(in_turn())

    return cast("Verb[_Options, _Result]", verb)


def engine_of(llm: Any) -> Engine:
    """Adapt an engine of vLLM.

    Raises:
        TypeError: it is none that is known.
        ThawError: it stands for several engines, of which one alone would answer.
    """
    if hasattr(llm, "llm_engine"):
        return _Blocking(llm)
    if inspect.iscoroutinefunction(getattr(llm, "collective_rpc", None)):
        return _Awaited(llm)
    raise TypeError(f"expected a vllm.LLM or an AsyncLLM, found a {type(llm).__name__}")


class _Blocking(Engine):
    """A `vllm.LLM`: all that it offers goes through the `add_request` of its engine."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def run(self, steps: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            steps.send(None)
        except StopIteration as end:
            result: _Result = end.value
            return result
        steps.close()
        raise RuntimeError("steps over an engine that blocks have waited for something else")

    def _answer(self, call: Callable[[], _Result]) -> _Result:
        """Ask the engine's core. vLLM waits for ever for one that ends before it answers.

        Raises:
            ThawError: it did.
        """
        client = getattr(self._llm.llm_engine, "engine_core", None)
        resources = getattr(client, "resources", None)
        if resources is None:
            # The core is in this process, and takes its calls from this thread alone.
            return call()
        found: Future[_Result] = Future()

        def answer() -> None:
            try:
                found.set_result(call())
            except BaseException as error:  # noqa: BLE001 - who asked raises it
                found.set_exception(error)

        # Nobody waits for it at the end of the process.
        threading.Thread(target=answer, name="thaw-ask", daemon=True).start()
        while not wait_for([found], _LOOK_EVERY_S).done:
            if resources.engine_dead and not wait_for([found], _LAST_WORDS_S).done:
                raise ThawError(_ENDED)
        return found.result()

    def turn(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext()

    async def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def world_size(self) -> int:
        return int(self._llm.llm_engine.vllm_config.parallel_config.world_size)

    async def ask(self, verb: str, *args: Any) -> Sequence[Answer]:
        return self._answer(lambda: self._llm.collective_rpc("thaw", args=(verb, *args)))

    @property
    def doors(self) -> Sequence[Door]:
        return (Door(self._llm.llm_engine, "add_request"),)

    def is_busy(self) -> bool:
        return bool(self._llm.llm_engine.has_unfinished_requests())

    def check_only_entrance(self) -> None:
        """Find nothing to object to: this process is the only one that the engine listens to."""

    async def reset_prefix_cache(self) -> bool:
        return self._answer(lambda: bool(self._llm.reset_prefix_cache(reset_connector=True)))

    async def reset_encoder_cache(self) -> None:
        self._answer(self._llm.llm_engine.reset_encoder_cache)

    @property
    def longest(self) -> int:
        return int(self._llm.llm_engine.vllm_config.model_config.max_model_len)

    async def tokenize(self, text: str) -> list[int]:
        return list(self._llm.get_tokenizer().encode(text))

    async def generate(
        self, prompt: Mapping[str, Any], asked: Mapping[str, Any], lora_request: Any
    ) -> Any:
        # Not by `_answer`: after an interrupt another thread would go on to step the engine.
        found = self._llm.generate(
            [prompt], _one_token(asked), use_tqdm=False, lora_request=lora_request
        )
        return found[0]

    async def settle(self) -> None:
        client = getattr(self._llm.llm_engine, "engine_core", None)
        # Where the core runs in a process of its own, it does not stand still.
        core = getattr(client, "engine_core", None)
        while core is not None and core.scheduler.has_requests():
            self._llm.llm_engine.step()


class _Awaited(Engine):
    """An `AsyncLLM`.

    Requests wait at many places before they are the engine's, but none between the `add_request` of
    its output processor, which counts them, and the message that takes them there.
    """

    def __init__(self, llm: Any) -> None:
        parallel = llm.vllm_config.parallel_config
        if parallel.data_parallel_size > 1 and not parallel.data_parallel_external_lb:
            raise ThawError(
                f"this AsyncLLM has {parallel.data_parallel_size} replicas, and only the first "
                "would answer: have one AsyncLLM for each, with data_parallel_external_lb"
            )
        self._llm = llm

    def run(self, steps: Coroutine[Any, Any, _Result]) -> Coroutine[Any, Any, _Result]:
        return steps

    async def _answer(self, call: Awaitable[_Result]) -> _Result:
        """Await the engine; see `_Blocking._answer`."""
        found = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait([found], timeout=_LOOK_EVERY_S))[0]:
                if self._llm.errored:
                    await asyncio.wait([found], timeout=_LAST_WORDS_S)
                    if not found.done():
                        raise ThawError(_ENDED)
            return found.result()
        finally:
            found.cancel()

    def turn(self) -> AbstractAsyncContextManager[Any]:
        # Kept by the AsyncLLM, which must not be kept in turn: it shuts down when it is let go.
        turn: asyncio.Lock = vars(self._llm).setdefault(_TURN, asyncio.Lock())
        return turn

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @property
    def world_size(self) -> int:
        return int(self._llm.vllm_config.parallel_config.world_size)

    async def ask(self, verb: str, *args: Any) -> Sequence[Answer]:
        answers: Sequence[Answer] = await self._answer(
            self._llm.collective_rpc("thaw", args=(verb, *args))
        )
        return answers

    @property
    def doors(self) -> Sequence[Door]:
        # The first three say no at once, and in our words; the last one to all that passed them
        # before they were shut. What a session streams in goes on as long as the session does.
        known = self._llm.output_processor

        def is_inside(request: Any, *_: Any) -> bool:
            return request.request_id in known.request_states

        offered = (Door(self._llm, name) for name in ("generate", "encode", "add_request"))
        return (*offered, Door(known, "add_request", is_inside))

    def is_busy(self) -> bool:
        return bool(self._llm.output_processor.has_unfinished_requests())

    def check_only_entrance(self) -> None:
        count, parallel = self._llm._client_count, self._llm.vllm_config.parallel_config
        if count > 1:
            raise ThawError(
                f"{count} API servers share this engine, and this one cannot keep requests out of "
                "the others: swap the weights of an engine with api_server_count=1"
            )
        if parallel.data_parallel_size > 1:
            raise ThawError(
                "other replicas may compute with this one's weights while they are swapped: swap "
                "those of an engine without data_parallel_size"
            )

    async def reset_prefix_cache(self) -> bool:
        return bool(await self._answer(self._llm.reset_prefix_cache(reset_connector=True)))

    async def reset_encoder_cache(self) -> None:
        await self._answer(self._llm.reset_encoder_cache())

    @property
    def longest(self) -> int:
        return int(self._llm.vllm_config.model_config.max_model_len)

    async def tokenize(self, text: str) -> list[int]:
        return list(self._llm.get_tokenizer().encode(text))

    async def generate(
        self, prompt: Mapping[str, Any], asked: Mapping[str, Any], lora_request: Any
    ) -> Any:
        request_id = f"thaw-{secrets.token_hex(8)}"
        outputs = self._llm.generate(
            prompt, _one_token(asked), request_id, lora_request=lora_request
        )

        async def last() -> Any:
            return [output async for output in outputs][-1]

        return await self._answer(last())

    async def settle(self) -> None:
        """Do nothing: the engine runs by itself."""


def _one_token(asked: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        extra_args={"kv_transfer_params": {"thaw": dict(asked)}},
    )
