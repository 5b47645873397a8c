"""An engine keeps from serving; the engine here is made up, real ones are in test_one_rank.py."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from thaw_format import ThawError

from thaw.vllm.serving import undefined_weights

REFUSED = "this engine serves nothing: its weights are undefined until a restore"


class Engine:
    """Has what `vllm.LLM` calls of its engine."""

    def __init__(self) -> None:
        self.running = 0

    def add_request(self, request: str) -> str:
        self.running += 1
        return request

    def has_unfinished_requests(self) -> bool:
        return self.running > 0


class Model:
    def __init__(self) -> None:
        self.llm_engine = Engine()


@pytest.fixture
def llm() -> Any:
    return Model()


def nothing() -> None:
    """Find nothing to object to."""


def test_refuses_inside_and_serves_after(llm: Any) -> None:
    with (
        undefined_weights(llm, "a.thaw", 0, nothing),
        pytest.raises(ThawError, match=REFUSED) as refused,
    ):
        llm.llm_engine.add_request("one")
    assert "a.thaw" in str(refused.value)
    assert llm.llm_engine.add_request("two") == "two"
    assert vars(llm.llm_engine).keys() == {"running"}


def fail(llm: Any, path: str) -> None:
    with (
        pytest.raises(OSError, match="half way") as failed,
        undefined_weights(llm, path, 0, nothing),
    ):
        raise OSError("half way")
    assert f"the restore from {path} has not ended on every rank" in failed.value.__notes__[0]


def test_refuses_after_a_failure_until_a_restore_ends_well(llm: Any) -> None:
    fail(llm, "a.thaw")
    fail(llm, "b.thaw")
    with pytest.raises(ThawError, match=r"last from b\.thaw"):
        llm.llm_engine.add_request("one")
    with undefined_weights(llm, "c.thaw", 0, nothing):
        pass
    assert llm.llm_engine.add_request("two") == "two"


def test_requests_that_run_are_left_alone(llm: Any) -> None:
    llm.llm_engine.add_request("one")
    with (
        pytest.raises(ThawError, match=r"requests are running after 0\.02 s"),
        undefined_weights(llm, "a.thaw", 0.02, nothing),
    ):
        pytest.fail("the weights would be swapped under a request")
    assert llm.llm_engine.add_request("two") == "two"


def test_what_refused_before_a_wait_that_failed_refuses_after_it(llm: Any) -> None:
    llm.llm_engine.running = 1
    llm.llm_engine.add_request = refuse = object()
    with (
        pytest.raises(ThawError, match="requests are running: let them end"),
        undefined_weights(llm, "a.thaw", 0, nothing),
    ):
        pytest.fail("the weights would be swapped under a request")
    assert llm.llm_engine.add_request is refuse


def test_requests_are_given_time_to_end_and_no_others_come(llm: Any) -> None:
    llm.llm_engine.add_request("one")
    refused = []

    def end() -> None:
        with pytest.raises(ThawError, match=REFUSED):
            llm.llm_engine.add_request("two")
        refused.append("two")
        llm.llm_engine.running = 0

    ending = threading.Timer(0.05, end)
    ending.start()
    with undefined_weights(llm, "a.thaw", 60, nothing):
        assert refused == ["two"]
    ending.join()


def test_what_does_not_fit_is_found_before_a_wait_and_changes_nothing(llm: Any) -> None:
    calls = []

    def refuse() -> None:
        calls.append(llm.llm_engine.running)
        raise OSError("does not fit")

    for running in (1, 0):
        llm.llm_engine.running = running
        with (
            pytest.raises(OSError, match="does not fit"),
            undefined_weights(llm, "a.thaw", 60, refuse),
        ):
            pytest.fail("the weights would be swapped")
    assert calls == [1, 0]
    assert llm.llm_engine.add_request("one") == "one"


def test_what_was_prepared_before_a_wait_is_prepared_again_after_it(llm: Any) -> None:
    calls = []

    def prepare() -> None:
        calls.append(llm.llm_engine.running)
        llm.llm_engine.running = 0

    llm.llm_engine.running = 1
    with undefined_weights(llm, "a.thaw", 60, prepare):
        assert calls == [1, 0]
