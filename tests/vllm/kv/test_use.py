"""A session serves of each request what spec/sessions-1.0.md, section 6, lets it."""

import base64
import hashlib
import importlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thaw
from thaw.vllm.kv.entries import Entry, read_entry
from thaw.vllm.kv.lookup import Candidate, Sessions
from thaw.vllm.kv.record import Adapter, Group, Hashes, Media, Session
from thaw.vllm.kv.requests import Inputs, token_bytes

USE = Path(__file__).parents[3] / "spec" / "sessions" / "use"
CASES = [
    pytest.param(path, each, id=f"{path.stem}: {each['description']}")
    for path in sorted(USE.glob("*.json"))
    for each in json.loads(path.read_text("utf-8"))["requests"]
]


def inputs_of(request: dict[str, Any]) -> Inputs:
    adapter, salt = request["adapter"], request["salt"]
    return Inputs(
        Adapter(**adapter) if adapter else None,
        None if salt is None else hashlib.sha256(salt.encode()).hexdigest(),
        tuple(Media(**each) for each in request["media"]),
    )


@pytest.mark.parametrize(("path", "request_"), CASES)
def test_requests_are_served_as_far_as_the_rules_let(path: Path, request_: dict[str, Any]) -> None:
    entry = read_entry(path.with_suffix(".thaw"))
    assert entry is not None
    unit = math.lcm(*(group.block_tokens for group in entry.sessions[0].groups))
    sessions = Sessions(unit, [Candidate(entry, None)])
    ids = base64.b64decode(request_["token_ids"])
    found = sessions.find(ids, inputs_of(request_), len(ids) // 4)
    assert found.tokens == request_["tokens"]
    assert (found.candidate is not None) == (found.tokens > 0)


def test_there_are_requests() -> None:
    assert len(CASES) > 40
    assert thaw.verify(USE / "full.thaw").tensors == 1


@pytest.fixture(scope="module")
def reader() -> Iterator[Any]:
    sys.path.insert(0, str(USE.parents[1]))
    yield importlib.import_module("session_reader")
    sys.path.remove(str(USE.parents[1]))


WIDE, NARROW = 4, 2
IDS = st.lists(st.integers(0, 1), max_size=14).map(lambda ids: token_bytes([1, *ids]))
MEDIA = st.lists(
    st.builds(Media, st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 2)), max_size=3
).map(lambda found: tuple(sorted(found, key=lambda each: each.offset)))
INPUTS = st.builds(
    Inputs,
    st.sampled_from([None, None, Adapter("a", "0" * 64), Adapter("a", "1" * 64)]),
    st.sampled_from([None, None, hashlib.sha256(b"salt").hexdigest()]),
    MEDIA,
)


@st.composite
def sessions_of_a_folder(draw: st.DrawFn) -> list[Session]:
    """Make sessions of two groups, one with a window, some of which begin alike."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        blocks = draw(st.integers(1, 3))
        ids = draw(st.lists(st.integers(0, 1), min_size=blocks * WIDE, max_size=blocks * WIDE))
        first = draw(st.integers(0, blocks * WIDE // NARROW - 1))
        window = draw(st.integers(1, (blocks * WIDE // NARROW - first) * NARROW + 1))
        kept, said = blocks * WIDE // NARROW - first, draw(INPUTS)
        groups = (
            Group("full", WIDE, None, 0, blocks, ("a",)),
            Group("sliding-window", NARROW, window, first, kept, ("b",)),
        )
        found.append(
            Session(
                token_ids=token_bytes([1, *ids[1:]]),
                hashes=Hashes("x", b"", WIDE, b""),
                groups=groups,
                layers={},
                fingerprint="",
                engine={},
                adapter=said.adapter,
                salt_sha256=said.salt_sha256,
                media=tuple(each for each in said.media if each.offset < len(ids)),
            )
        )
    return found


def plainly(reader: Any, session: Session, ids: bytes, inputs: Inputs) -> int:
    """Ask the independent reader how many tokens a session serves."""
    return max(
        length
        for length in range(0, min(session.tokens, len(ids) // 4) + 1, WIDE)
        if not length
        or (
            session.token_ids[: 4 * length] == ids[: 4 * length]
            and all(reader.reaches(asdict(group), length) for group in session.groups)
            and session.adapter == inputs.adapter
            and session.salt_sha256 == inputs.salt_sha256
            and [each for each in session.media if each.offset < length]
            == [each for each in inputs.media if each.offset < length]
        )
    )


@settings(max_examples=1000, deadline=None)
@given(found=sessions_of_a_folder(), ids=IDS, inputs=INPUTS, less=st.integers(0, 5))
def test_the_session_that_serves_the_most_is_found(
    found: list[Session], ids: bytes, inputs: Inputs, less: int, reader: Any
) -> None:
    entries = [Entry(str(n), Path(str(n)), None, (each,), 0, 0, 0) for n, each in enumerate(found)]
    match = Sessions(WIDE, [Candidate(each, None) for each in entries]).find(
        ids, inputs, most := max(0, len(ids) // 4 - less)
    )
    wanted = [plainly(reader, each, ids[: 4 * most], inputs) for each in found]
    assert match.tokens == max(wanted)
    if match.candidate is not None:
        assert wanted[int(match.candidate.entry.name)] == match.tokens
