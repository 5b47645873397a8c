"""What is checked all at once is what is checked one by one, and says the same of it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thaw_format import FormatError, manifest, parse_json, parse_manifest
from thaw_format.columns import storages_of, tensors_of
from thaw_format.strict_json import MAX_DEPTH

PAYLOAD_NBYTES = 4096
TENSOR = {"dtype": "bfloat16", "shape": [2, 3], "stride": [3, 1], "storage": 1, "offset": 4}
ROOT: dict[str, Any] = {
    "kind": "weights",
    "producer": {"name": "a", "version": "b"},
    "shard": {"rank": 0, "size": 1},
    "metadata": {},
    "storages": [{"offset": 0, "nbytes": 512}, {"offset": 512, "nbytes": 100}],
    "tensors": {"a": TENSOR, "b": TENSOR | {"shape": [], "stride": [], "offset": 98}},
}
ODD = [
    *(None, True, False, "x", "int8", "complex128", {}, {"a": 1}),
    *([], [0], [1], [2, 3], [-1, 1], [True, 1], [0, 2**53 - 1], [2**53 - 1] * 2, [1] * 65),
    *([0] + [2**53 - 1] * 64, [2**40, 2**40], [None, 1], ["1", 1], [[1], 1]),
    *(-1, 0, 1, 2, 3, 12, 88, 90, 100, 511, 512, 1024, 2**53 - 1),
]
NAMES = ["", "\0", "a\0b", "x" * 1024, "x" * 1025, "x" * 4096, "x" * 4097, "\U0001f9ca" * 1025]


def changed() -> Iterator[dict[str, Any]]:
    """Yield manifests in which one member is odd or missing, or one name."""
    for place in (("tensors", "a"), ("tensors", "b"), ("storages", 0), ("storages", 1)):
        for odd in ODD:
            yield replaced(place, odd)
        for member in ROOT[place[0]][place[1]]:
            yield from (replaced((*place, member), odd) for odd in ODD)
            less = copy.deepcopy(ROOT)
            del less[place[0]][place[1]][member]
            yield less
    for name in NAMES:
        yield replaced(("tensors", name), TENSOR)
    yield from (replaced(("storages",), []), replaced(("tensors",), {}))


def replaced(place: tuple[Any, ...], value: object) -> dict[str, Any]:
    root = copy.deepcopy(ROOT)
    parent: Any = root
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return root


def outcome(data: bytes) -> object:
    try:
        found = parse_manifest(data, PAYLOAD_NBYTES, origin=8192)
    except FormatError as error:
        return error.code, str(error)
    return found.storages, found.tensors


def test_a_manifest_is_the_same_all_at_once_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [json.dumps(each).encode() for each in (ROOT, *changed())]
    at_once = [outcome(text) for text in texts]
    monkeypatch.setattr(manifest, "storages_of", lambda *_: None)
    monkeypatch.setattr(manifest, "tensors_of", lambda *_: None)
    assert [outcome(text) for text in texts] == at_once


def test_what_is_right_is_made_at_once() -> None:
    storages = storages_of(ROOT["storages"], PAYLOAD_NBYTES, 0)
    assert storages is not None
    tensors = tensors_of(ROOT["tensors"], storages)
    assert tensors is not None
    assert [spec.extent for spec in tensors.values()] == [12, 2]


TEXTS = st.text(st.sampled_from('ab:,[]{}"\\/\n \u00e9\u4e16'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)
ROOTS = st.dictionaries(TEXTS, VALUES, max_size=4)


@settings(max_examples=300, deadline=None)
@given(root=ROOTS, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_any_object_is_parsed(root: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(root, ensure_ascii=ascii_only, indent=indent)
    assert parse_json(text.encode()) == root


@settings(max_examples=300, deadline=None)
@given(root=ROOTS, key=TEXTS, values=st.tuples(VALUES, VALUES), before=st.sampled_from(["", " "]))
def test_a_member_that_occurs_twice_is_found(
    root: dict[str, Any], key: str, values: tuple[Any, Any], before: str
) -> None:
    twice = [
        f"{json.dumps(key, ensure_ascii=ascii_only)}{before}:{json.dumps(value)}"
        for ascii_only, value in zip((True, False), values, strict=True)
    ]
    text = f'{{"x":{json.dumps(root)},"y":[{{{",".join(twice)}}}]}}'
    with pytest.raises(FormatError) as error:
        parse_json(text.encode())
    assert error.value.code == "json-duplicate-key"


@pytest.mark.parametrize("odd", ["", "]", "[[[[", '\\"[', "\\\\", "}:{"])
def test_the_depth_is_that_of_brackets_outside_of_strings(odd: str) -> None:
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        levels = depth - 1
        text = f'{{"{odd}":{"[" * levels}"{odd}","{odd}"{"]" * levels}}}'.encode()
        if depth == MAX_DEPTH:
            parse_json(text)
        else:
            with pytest.raises(FormatError) as error:
                parse_json(text)
            assert error.value.code == "json-depth"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a":{"b":1,"b":2},"c":}', "json-duplicate-key"),
        ('{"a":{"b":1,"b":2},"c":1.5}', "json-duplicate-key"),
        ('{"c":1.5,"a":{"b":1,"b":2}}', "json-number"),
        ('{"a":9007199254740993,"a":1}', "json-number"),
        ('{"a":1,"a":1', "json-syntax"),
    ],
)
def test_the_first_thing_that_is_wrong_is_reported(text: str, code: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_json(text.encode())
    assert error.value.code == code
