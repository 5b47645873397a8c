"""Errors cross processes as they are: attributes, notes and text."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from thaw_format import codes, format_error

import thaw
from thaw.errors import MismatchError, TransferError, UnavailableBackendError, UnknownBackendError

SAMPLES: dict[type[Exception], tuple[tuple[Any, ...], dict[str, Any]]] = {
    MismatchError: (("it differs", ["a", "b"]), {}),
    UnknownBackendError: (("x", ["b", "a"]), {}),
    UnavailableBackendError: (("x", torch.device("cuda:1"), "there is none"), {}),
    TransferError: (("reading failed",), {"path": "a.thaw", "offset": 5, "nbytes": 7}),
}
FORMAT = (
    ("it is damaged",),
    {"code": "chunk-checksum", "rule": "DIG-1", "path": "a.thaw", "offset": 9},
)


def classes(of: type[thaw.ThawError] = thaw.ThawError) -> Iterator[type[thaw.ThawError]]:
    yield of
    for each in of.__subclasses__():
        # Those of other tests are their affair.
        if each.__module__.split(".")[0].startswith("thaw"):
            yield from classes(each)


def sample(kind: type[thaw.ThawError]) -> thaw.ThawError:
    """Make an error of a class, with whatever it has."""
    given = SAMPLES.get(kind)
    if given is None and issubclass(kind, thaw.FormatError):
        given = FORMAT
    if given is None:
        assert kind.__init__ is Exception.__init__, f"{kind.__name__} needs a sample"
        given = ("something", 5), {}
    error = kind(*given[0], **given[1])
    error.add_note("while this was tried")
    error.more = {"of": "its own"}  # type: ignore[attr-defined]
    return error


def assert_same(found: BaseException, expected: BaseException) -> None:
    assert type(found) is type(expected)
    assert (str(found), repr(found), found.args) == (str(expected), repr(expected), expected.args)
    assert vars(found) == vars(expected)


KINDS = list(dict.fromkeys(classes()))


def test_all_families_are_here() -> None:
    assert {thaw.FormatError, thaw.ChecksumError, thaw.BackendError, *SAMPLES} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_after_a_copy(kind: type[thaw.ThawError]) -> None:
    error = sample(kind)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)
    for each in (copy.copy(error), copy.deepcopy(error)):
        assert_same(each, error)
        each.add_note("of the copy")
    assert_same(copy.copy(error), sample(kind))


def fail(index: int) -> None:
    raise sample(KINDS[index])


def without_remote_trace(error: BaseException) -> BaseException:
    assert error.__cause__ is not None, "where it was raised is said"
    return error


def test_an_error_comes_out_of_other_processes() -> None:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as executor, context.Pool(1) as pool:
        for index, kind in enumerate(KINDS):
            for found in (
                executor.submit(fail, index).exception(timeout=60),
                failure_of(pool.apply_async(fail, (index,))),
            ):
                assert found is not None
                assert_same(without_remote_trace(found), sample(kind))


def failure_of(result: Any) -> BaseException:
    with pytest.raises(thaw.ThawError) as caught:
        result.get(timeout=60)
    return caught.value


@pytest.mark.parametrize("code", sorted(codes.RULES))
def test_every_code_of_the_format_too(code: str) -> None:
    error = format_error(code, "it is damaged", path="a.thaw", offset=3)
    assert_same(pickle.loads(pickle.dumps(error)), error)


def test_a_class_of_others_that_takes_what_it_likes() -> None:
    class PickyError(thaw.BackendError):
        def __init__(self, *, a: int, b: int) -> None:
            super().__init__(f"{a} is not {b}")
            self.a, self.b = a, b

    assert_same(copy.copy(PickyError(a=1, b=2)), PickyError(a=1, b=2))
