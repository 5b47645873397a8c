"""Two readers of sessions say the same of whatever a session might be."""

import copy
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thaw_format import FormatError, Snapshot, parse_manifest

from thaw.vllm.kv.record import Session
from thaw.vllm.kv.rules import SESSION_RULES

SPEC = Path(__file__).resolve().parents[2] / "spec"
# The last rule of each phase of section 3; KV-5 and KV-6 belong to two.
PHASES = (1, 2, 8, 17, 21, 22)
BEFORE_MAJOR = ("session-missing-member", "session-member-type")
ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 12, 16, 17, 18, 31, 32, 33, 64, 2**53 - 1),
    *("", "A", "AA==", "AAAA", "AB==", "0f", "0F" * 32, "0f" * 32, "full", "sliding-window"),
    *("sha256", "sha256_cbor", "a.0", "b.0", [], {}, [None], [0], [0, 1, 2, 3], [3, 2, 1, 0]),
    *([None, 1, 16, 8], [2, 1, 16, 8], ["a.0"], ["a.0", "a.1"], [{}], [None, None], [[]]),
]


@pytest.fixture(scope="module")
def readers() -> Iterator[tuple[Any, Any]]:
    """Import the case that others begin with, and the independent reader."""
    sys.path.insert(0, str(SPEC))
    yield importlib.import_module("session_case"), importlib.import_module("session_reader")
    sys.path.remove(str(SPEC))


def ours(manifest: dict[str, Any]) -> str:
    found = parse_manifest(json.dumps(manifest).encode(), 1 << 30)
    snapshot = Snapshot(
        path=Path("x.thaw"),
        format="thaw",
        sources=(),
        storages=found.storages,
        tensors=found.tensors,
        digests=(),
        kind=found.kind,
        metadata=found.metadata,
    )
    try:
        Session.of(snapshot)
    except FormatError as error:
        return error.code
    return ""


def theirs(reader: Any, manifest: dict[str, Any]) -> str:
    try:
        reader.check_shard(SimpleNamespace(manifest=copy.deepcopy(manifest)))
    except reader.Error as error:
        assert SESSION_RULES[error.code] == error.rule
        return str(error.code)
    return ""


def phase(code: str) -> int:
    """Return the phase of a code, 0 where there is none."""
    if not code:
        return 0
    number = int(SESSION_RULES[code].rpartition("-")[2])
    return next(n for n, last in enumerate(PHASES, 1) if number <= last)


def paths(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    inside: Any = ()
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inside:
        yield from paths(each, (*way, key))


def change(value: Any, way: tuple[Any, ...], odd: Any) -> None:
    for key in way[:-1]:
        value = value[key]
    if odd is ...:
        del value[way[-1]]
    else:
        value[way[-1]] = copy.deepcopy(odd)


def same(one: str, other: str, manifest: dict[str, Any]) -> bool:
    """Say whether two answers are both right; of what stands first, major, there are two codes."""
    major = manifest["metadata"]["session"].get("major")
    if type(major) is not int and {one, other} & {*BEFORE_MAJOR}:
        return one == other
    return phase(one) == phase(other)


@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_readers_agree(data: st.DataObject, readers: tuple[Any, Any]) -> None:
    cases, reader = readers
    manifest = json.loads(cases.shard(cases.FULL).manifest)
    session = manifest["metadata"]["session"]
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(list(paths(session))))
        change(session, way, data.draw(st.sampled_from([*ODD, ...])))
    found = ours(manifest), theirs(reader, manifest)
    assert same(*found, manifest), found


def test_readers_agree_on_every_single_change(readers: tuple[Any, Any]) -> None:
    cases, reader = readers
    plain = json.loads(cases.shard(cases.FULL).manifest)
    tried: set[str] = set()
    for way in paths(plain["metadata"]["session"]):
        for odd in (*ODD, ...):
            manifest = copy.deepcopy(plain)
            change(manifest["metadata"]["session"], way, odd)
            found = ours(manifest), theirs(reader, manifest)
            assert same(*found, manifest), (way, odd, found)
            tried |= {*found}
    assert len(tried) > 14
