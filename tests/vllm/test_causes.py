"""Why a worker ended reaches who started the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

import thaw
from thaw.vllm.causes import LeavingCause, RaisingCause

VLLM_SAYS = "WorkerProc initialization failed due to an exception in a background process."


def test_the_cause_is_raised_in_place_of_what_vllm_says() -> None:
    with pytest.raises(thaw.MismatchError) as caught, RaisingCause() as cause:
        for rank in (1, 0):
            with pytest.raises(ValueError), LeavingCause(cause.folder, rank):
                raise ValueError("another")
        with pytest.raises(thaw.MismatchError), LeavingCause(cause.folder, 0):
            raise thaw.MismatchError("dtype is this, expected that")
        raise RuntimeError(VLLM_SAYS)
    assert str(caught.value) == f"rank 0: dtype is this, expected that ({VLLM_SAYS})"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not Path(cause.folder).exists()


def test_an_error_of_another_type_keeps_its_name() -> None:
    with pytest.raises(thaw.ThawError) as caught, RaisingCause() as cause:
        with pytest.raises(ZeroDivisionError), LeavingCause(cause.folder, 3):
            raise ZeroDivisionError("by nothing")
        raise RuntimeError(VLLM_SAYS)
    assert str(caught.value) == f"rank 3: by nothing ({VLLM_SAYS}) (ZeroDivisionError)"


def test_an_error_in_this_process_stays_as_it_is() -> None:
    raised = thaw.MismatchError("here")
    refused = pytest.raises(thaw.MismatchError)
    with refused as caught, RaisingCause() as cause, LeavingCause(cause.folder, 0):
        raise raised
    assert caught.value is raised


def test_without_word_of_a_worker_nothing_changes() -> None:
    raised = RuntimeError(VLLM_SAYS)
    with pytest.raises(RuntimeError) as caught, RaisingCause():
        raise raised
    assert caught.value is raised


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all"])
def test_nobody_may_have_asked(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), LeavingCause(folder, 0):
        raise ZeroDivisionError
