"""An engine keeps from serving; the engines here are made up, real ones are in test_one_rank.py
and test_async.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import LLM, AsyncLLM
from thaw_format import ThawError

from thaw.vllm.adapters import engine_of
from thaw.vllm.serving import undefined_weights

REFUSED = "this engine serves nothing: its weights are undefined until a restore"


@pytest.fixture(params=[LLM, AsyncLLM])
def llm(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def nothing() -> None:
    """Find nothing to object to."""


def undefined(
    llm: Any,
    path: str = "a.thaw",
    wait_s: float = 0,
    prepare: Callable[[], Awaitable[None]] = nothing,
) -> AbstractAsyncContextManager[None]:
    return undefined_weights(engine_of(llm), path, wait_s, prepare)


def shut(llm: Any) -> list[str]:
    """Name the methods that were replaced."""
    return [door.name for door in engine_of(llm).doors if door.name in vars(door.owner)]


def run(steps: Callable[[], Any]) -> None:
    asyncio.run(steps())


def test_refuses_inside_and_serves_after(llm: Any) -> None:
    async def steps() -> None:
        async with undefined(llm):
            with pytest.raises(ThawError, match=REFUSED) as refused:
                await llm.enter("one")
        assert "a.thaw" in str(refused.value)
        assert await llm.enter("two") == "two"
        assert shut(llm) == []
        assert set(llm.requests) == {"two"}

    run(steps)


async def fail(llm: Any, path: str) -> None:
    with pytest.raises(OSError, match="half way") as failed:
        async with undefined(llm, path):
            raise OSError("half way")
    assert f"the restore from {path} has not ended on every rank" in failed.value.__notes__[0]


def test_refuses_after_a_failure_until_a_restore_ends_well(llm: Any) -> None:
    async def steps() -> None:
        await fail(llm, "a.thaw")
        assert shut(llm)
        await fail(llm, "b.thaw")
        with pytest.raises(ThawError, match=r"last from b\.thaw"):
            await llm.enter("one")
        async with undefined(llm, "c.thaw"):
            pass
        assert await llm.enter("two") == "two"
        assert shut(llm) == []

    run(steps)


def test_requests_that_run_are_left_alone(llm: Any) -> None:
    async def steps() -> None:
        await llm.enter("one")
        with pytest.raises(ThawError, match=r"requests are running after 0\.02 s"):
            async with undefined(llm, wait_s=0.02):
                pytest.fail("the weights would be swapped under a request")
        assert await llm.enter("two") == "two"

    run(steps)


def test_what_refused_before_a_wait_that_failed_refuses_after_it(llm: Any) -> None:
    async def steps() -> None:
        await llm.enter("one")
        doors = engine_of(llm).doors
        stood = [object() for _ in doors]
        for door, each in zip(doors, stood, strict=True):
            setattr(door.owner, door.name, each)
        with pytest.raises(ThawError, match="requests are running: let them end"):
            async with undefined(llm):
                pytest.fail("the weights would be swapped under a request")
        assert [getattr(door.owner, door.name) for door in doors] == stood

    run(steps)


def test_requests_are_given_time_to_end_and_no_others_come(llm: Any) -> None:
    refused = []

    async def refuse_and_end() -> None:
        with pytest.raises(ThawError, match=REFUSED):
            await llm.enter("two")
        refused.append("two")

    async def steps() -> None:
        await llm.enter("one")
        engine = engine_of(llm)

        async def wait(_: float) -> None:
            await refuse_and_end()
            llm.requests.clear()

        vars(engine)["wait"] = wait
        async with undefined_weights(engine, "a.thaw", 60, nothing):
            assert refused == ["two"]

    run(steps)


def test_what_does_not_fit_is_found_before_a_wait_and_changes_nothing(llm: Any) -> None:
    calls = []

    async def refuse() -> None:
        calls.append(len(llm.requests))
        raise OSError("does not fit")

    async def steps() -> None:
        for running in ({"one": None}, {}):
            llm.requests.clear()
            llm.requests.update(running)
            with pytest.raises(OSError, match="does not fit"):
                async with undefined(llm, wait_s=60, prepare=refuse):
                    pytest.fail("the weights would be swapped")
        assert calls == [1, 0]
        assert await llm.enter("one") == "one"

    run(steps)


def test_what_was_prepared_before_a_wait_is_prepared_again_after_it(llm: Any) -> None:
    calls = []

    async def prepare() -> None:
        calls.append(len(llm.requests))
        llm.requests.clear()

    async def steps() -> None:
        await llm.enter("one")
        async with undefined(llm, wait_s=60, prepare=prepare):
            assert calls == [1, 0]

    run(steps)


@pytest.mark.parametrize("door", ["generate", "encode", "add_request"])
def test_every_way_into_an_async_engine_says_no_when_it_is_called(door: str) -> None:
    llm = AsyncLLM()

    async def steps() -> None:
        async with undefined(llm):
            with pytest.raises(ThawError, match=REFUSED):
                getattr(llm, door)("one")

    run(steps)


def test_a_request_that_is_rendered_while_the_doors_are_shut_stays_outside() -> None:
    llm = AsyncLLM()

    async def steps() -> None:
        rendered = asyncio.Event()
        llm.rendered = rendered.wait
        entering = asyncio.create_task(llm.enter("one"))
        await asyncio.sleep(0)
        async with undefined(llm):
            rendered.set()
            with pytest.raises(ThawError, match=REFUSED):
                await entering
            assert not llm.requests
        # Those that are still on their way when the weights are whole again get in.
        assert await llm.enter("two") == "two"

    run(steps)


def test_what_a_running_session_streams_in_goes_on_until_the_session_ends() -> None:
    llm = AsyncLLM()
    chunk = SimpleNamespace(request_id="session")

    async def steps() -> None:
        await llm.enter("session")
        engine = engine_of(llm)

        async def wait(_: float) -> None:
            llm.output_processor.add_request(chunk, "more")
            assert llm.requests == {"session": "more"}
            llm.requests.clear()

        vars(engine)["wait"] = wait
        async with undefined_weights(engine, "a.thaw", 60, nothing):
            with pytest.raises(ThawError, match=REFUSED):
                llm.output_processor.add_request(chunk, "too late")
            assert not llm.requests

    run(steps)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"clients": 2}, "2 API servers share this engine"),
        (
            {"data_parallel_size": 2, "data_parallel_external_lb": True},
            "other replicas may compute with this one's weights",
        ),
    ],
)
def test_requests_that_cannot_be_kept_out_keep_weights_from_being_swapped(
    made: dict[str, Any], said: str
) -> None:
    llm = AsyncLLM(**made)

    async def steps() -> None:
        with pytest.raises(ThawError, match=said):
            async with undefined(llm):
                pytest.fail("the weights would be swapped under a request")
        assert await llm.enter("one") == "one"

    run(steps)
