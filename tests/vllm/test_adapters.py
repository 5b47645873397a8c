"""What is asked of an engine is the same for `vllm.LLM` and `AsyncLLM`; both are made up here."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import DONE, LLM, AsyncLLM

import thaw
import thaw_vllm
from thaw.vllm import adapters, live
from thaw.vllm.adapters import engine_of

FAILED = {"rank": 0, "error": "MismatchError", "message": "no"}
VERBS: dict[str, Callable[[Any], Any]] = {
    "freeze": lambda llm: thaw_vllm.freeze_engine(llm, "a.thaw", allow_unverified=True),
    "restore": lambda llm: thaw_vllm.restore_engine(llm, "a.thaw", backend="native", wait_s=1),
    "pin": lambda llm: thaw_vllm.pin_engine(llm, "a.thaw"),
    "unpin": lambda llm: thaw_vllm.unpin_engine(llm, "a.thaw"),
    "compare": lambda llm: thaw_vllm.verify(llm, "a.thaw"),
}


@pytest.fixture(params=[LLM, AsyncLLM])
def llm(request: pytest.FixtureRequest) -> Any:
    return request.param()


def result(found: Any) -> Any:
    """Await what has to be awaited."""
    if not inspect.iscoroutine(found):
        return found

    async def wait() -> Any:
        return await found

    return asyncio.run(wait())


@pytest.mark.parametrize("verb", VERBS)
def test_an_engine_that_blocks_returns_and_the_other_is_awaited(verb: str, llm: Any) -> None:
    found = VERBS[verb](llm)
    assert inspect.iscoroutine(found) == isinstance(llm, AsyncLLM)
    # Nothing is done before it is awaited.
    assert bool(llm.workers.calls) == isinstance(llm, LLM)
    result(found)
    assert llm.workers.calls[-1][0] == verb


def test_a_snapshot_of_a_live_engine(llm: Any, tmp_path: Path) -> None:
    report = result(thaw_vllm.freeze_engine(llm, tmp_path / "a.thaw", backend="native"))
    ((verb, path, _, *options),) = llm.workers.calls
    assert (verb, path, options) == ("freeze", str(tmp_path / "a.thaw"), ["native", False])
    assert (report.nbytes, report.ranks, report.backends) == (3, 1, ("reference",))


def test_a_restore_is_prepared_and_resets_caches(llm: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.thaw"
    report = result(thaw_vllm.restore_engine(llm, path, backend="native"))
    assert llm.workers.calls == [("prepare", str(path), "native"), ("restore",)]
    assert llm.workers.resets == ["prefix", "encoder"]
    assert report.path == path


def test_what_does_not_fit_is_forgotten(llm: Any) -> None:
    llm.workers.answers["prepare"] = FAILED
    with pytest.raises(thaw.MismatchError, match=r"^rank 0: no$"):
        result(thaw_vllm.restore_engine(llm, "a.thaw"))
    assert [call[0] for call in llm.workers.calls] == ["prepare", "forget"]
    assert result(llm.enter("one")) == "one"


@pytest.mark.parametrize("answer", [FAILED, KeyboardInterrupt()], ids=["rank", "interrupt"])
def test_a_restore_that_fails_leaves_nothing_served_and_a_good_one_heals(
    answer: Any, llm: Any
) -> None:
    llm.workers.answers["restore"] = answer
    with pytest.raises((thaw.MismatchError, KeyboardInterrupt)):
        result(thaw_vllm.restore_engine(llm, "a.thaw"))
    with pytest.raises(thaw.ThawError, match="serves nothing"):
        result(llm.enter("one"))
    llm.workers.answers.clear()
    result(thaw_vllm.restore_engine(llm, "a.thaw"))
    assert result(llm.enter("one")) == "one"


def test_a_prefix_cache_of_old_weights_is_not_served_from(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_RESET_S", 0.0)
    llm.workers.prefix_cache_resets = False
    with pytest.raises(thaw.ThawError, match="could not be reset"):
        result(thaw_vllm.restore_engine(llm, "a.thaw"))
    with pytest.raises(thaw.ThawError, match="serves nothing"):
        result(llm.enter("one"))


def test_what_differs_is_said_rank_by_rank(llm: Any) -> None:
    llm.workers.answers["compare"] = DONE | {"rank": 3, "differences": ["'a' differs"]}
    assert result(thaw_vllm.verify(llm, "a.thaw")).differences == ("rank 3: 'a' differs",)


def test_restores_that_are_awaited_together_come_one_after_the_other() -> None:
    llm = AsyncLLM()

    async def steps() -> None:
        restores = (thaw_vllm.restore_engine(llm, path) for path in ("/a.thaw", "/b.thaw"))
        found = await asyncio.gather(*restores, thaw_vllm.unpin_engine(llm, "/a.thaw"))
        assert [str(each.path) for each in found[:2]] == ["/a.thaw", "/b.thaw"]

    asyncio.run(steps())
    asked = [call[:2] for call in llm.workers.calls]
    first, second = [("prepare", "/a.thaw"), ("restore",)], [("prepare", "/b.thaw"), ("restore",)]
    assert asked == [*first, *second, ("unpin", "/a.thaw")]


def test_a_restore_that_is_cancelled_once_bytes_move_leaves_nothing_served() -> None:
    llm = AsyncLLM()

    async def steps() -> None:
        restoring = asyncio.create_task(thaw_vllm.restore_engine(llm, "a.thaw"))
        while ("restore",) not in llm.workers.calls:
            await asyncio.sleep(0)
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring
        with pytest.raises(thaw.ThawError, match="serves nothing"):
            await llm.enter("one")
        await thaw_vllm.restore_engine(llm, "a.thaw")
        assert await llm.enter("one") == "one"

    asyncio.run(steps())


def test_replicas_of_which_one_alone_would_answer_are_refused() -> None:
    with pytest.raises(thaw.ThawError, match="2 replicas, and only the first would answer"):
        thaw_vllm.verify(AsyncLLM(data_parallel_size=2), "a.thaw")
    apart = AsyncLLM(data_parallel_size=2, data_parallel_external_lb=True)
    assert not result(thaw_vllm.verify(apart, "a.thaw"))


def test_what_is_no_engine_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"expected a vllm\.LLM or an AsyncLLM, found a Workers"):
        thaw_vllm.verify(LLM().workers, "a.thaw")


def test_an_async_engine_is_let_go_when_nobody_else_has_it() -> None:
    llm = AsyncLLM()
    gc.collect()
    gc.disable()
    try:
        result(thaw_vllm.restore_engine(llm, "a.thaw"))
        gone = weakref.ref(llm)
        del llm
        assert gone() is None
    finally:
        gc.enable()


class CoreApart:
    """What a client of a core in another process has."""

    def __init__(self) -> None:
        self.resources = SimpleNamespace(engine_dead=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(adapters, "_LAST_WORDS_S", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("verb", ["freeze", "restore", "compare"])
def test_a_core_that_ends_before_it_answers_is_not_waited_for(verb: str) -> None:
    llm: Any = LLM()
    core = llm.llm_engine.engine_core = CoreApart()

    def ask(*_: Any, **__: Any) -> Any:
        core.resources.engine_dead = True
        threading.Event().wait()

    llm.collective_rpc = ask
    with pytest.raises(thaw.ThawError, match="core ended before it answered"):
        VERBS[verb](llm)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("verb", ["freeze", "restore", "compare"])
def test_nor_is_one_that_is_awaited(verb: str) -> None:
    llm: Any = AsyncLLM()

    async def ask(*_: Any, **__: Any) -> Any:
        llm.errored = True
        await asyncio.Event().wait()

    llm.collective_rpc = ask
    with pytest.raises(thaw.ThawError, match="core ended before it answered"):
        result(VERBS[verb](llm))


@pytest.mark.usefixtures("impatient")
def test_what_an_engine_that_ends_says_itself_is_raised() -> None:
    llm: Any = LLM()
    core = llm.llm_engine.engine_core = CoreApart()

    def ask(*_: Any, **__: Any) -> Any:
        core.resources.engine_dead = True
        time.sleep(0.02)
        raise OSError("dead")

    llm.collective_rpc = ask
    with pytest.raises(OSError, match=r"^dead$"):
        VERBS["compare"](llm)


@pytest.mark.usefixtures("impatient")
def test_a_core_that_takes_long_is_waited_for() -> None:
    llm: Any = LLM()
    llm.llm_engine.engine_core = CoreApart()
    ask = llm.collective_rpc

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return ask(*args, **options)

    llm.collective_rpc = slowly
    assert not VERBS["compare"](llm)


def test_steps_over_an_engine_that_blocks_wait_for_nothing() -> None:
    engine: Any = engine_of(LLM())
    with pytest.raises(RuntimeError, match="waited for something else"):
        engine.run(asyncio.sleep(0))
