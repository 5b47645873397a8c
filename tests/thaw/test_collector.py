"""The collector is out of the way in a block, and after it as the program wants it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from thaw_format import collector_paused

THRESHOLDS = gc.get_threshold()


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert (gc.isenabled(), gc.get_threshold()) == (True, THRESHOLDS)
    assert collects()


class Node:
    """Something that only the collector frees."""

    def __init__(self) -> None:
        self.self = self


def collects() -> bool:
    """Say whether garbage is found while many objects are made."""
    gc.collect()
    garbage = weakref.ref(Node())
    kept = [[each] for each in range(20_000)]
    return len(kept) > 0 and garbage() is None


@contextmanager
def another_thread_pauses() -> Iterator[None]:
    inside, over = threading.Event(), threading.Event()

    def pause() -> None:
        with collector_paused():
            inside.set()
            over.wait()

    thread = threading.Thread(target=pause)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_nothing_is_collected_meanwhile() -> None:
    with collector_paused():
        assert not collects()
    assert collects()


def test_blocks_overlap() -> None:
    with another_thread_pauses():
        with collector_paused():
            with collector_paused():
                pass
            assert not collects()
        assert not collects()
    assert collects()


def test_an_error_ends_a_block() -> None:
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert collects()


def test_a_program_that_has_it_disabled() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
    "disables it": (gc.disable, lambda: not gc.isenabled()),
    "sets it off": (lambda: gc.set_threshold(0), lambda: gc.get_threshold()[0] == 0),
    "sets it": (lambda: gc.set_threshold(77, 3, 3), lambda: gc.get_threshold() == (77, 3, 3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_program_says_meanwhile_stays(name: str) -> None:
    change, is_so = CHANGES[name]
    try:
        with another_thread_pauses(), collector_paused():
            change()
        assert is_so()
        with collector_paused():
            pass
        assert is_so()
    finally:
        gc.enable()
        gc.set_threshold(*THRESHOLDS)


def in_a_fork(check: Callable[[], bool]) -> bool:
    child = os.fork()
    if not child:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_no_pauses_of_other_threads() -> None:
    def check() -> bool:
        before = collects()
        with collector_paused():
            within = collects()
        return before and not within and collects() and gc.get_threshold() == THRESHOLDS

    with another_thread_pauses():
        assert in_a_fork(check)
        assert not collects()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_within_a_block_goes_on_with_it() -> None:
    @contextmanager
    def forked() -> Iterator[int]:
        with collector_paused():
            child = os.fork()
            yield child

    with another_thread_pauses(), forked() as child:
        within = collects()
    if not child:
        os._exit(0 if not within and collects() else 1)
    assert not within
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_importing_registers_nothing() -> None:
    program = """
import os, torch, torch.nn
os.register_at_fork = None
import thaw_format, thaw
"""
    subprocess.run([sys.executable, "-c", program], check=True)
