"""Which session serves a request, and how far: what trying every one would find."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_sessions import BLOCK, LAYERS, session

from thaw.vllm.kv.binding import Difference
from thaw.vllm.kv.entries import Entry
from thaw.vllm.kv.lookup import Candidate, Sessions
from thaw.vllm.kv.record import Adapter, Group, Media, Session
from thaw.vllm.kv.requests import Inputs, token_bytes

PLAIN = Inputs(None, None, ())
OTHER = Difference("weights", "it is of other weights")


def candidate(said: Session, name: str = "a", difference: Difference | None = None) -> Candidate:
    entry = Entry(name, Path(f"{name}.thaw"), "0" * 32, (said,), 1, 0.0, 0.0)
    return Candidate(entry, difference)


def of(ids: list[int], **members: Any) -> Session:
    blocks = len(ids) // BLOCK
    return session(
        len(ids),
        token_ids=struct.pack(f"<{len(ids)}I", *ids),
        groups=(Group("full", BLOCK, None, 0, blocks, LAYERS),),
        **members,
    )


def served(candidates: list[Candidate], ids: list[int], most: int, unit: int = BLOCK) -> int:
    """Try every session for every length."""
    best = 0
    for each in candidates:
        theirs = list(struct.unpack(f"<{each.session.tokens}I", each.session.token_ids))
        for length in range(unit, min(len(theirs), most) + 1, unit):
            if theirs[:length] == ids[:length] and each.difference is None:
                best = max(best, length)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_it_finds_what_trying_every_one_finds(seed: int) -> None:
    chance = random.Random(seed)
    unit = chance.choice([BLOCK, 2 * BLOCK])

    def made(blocks: int) -> list[int]:
        # Few different blocks, so that many begin alike.
        return [token for _ in range(blocks) for token in [chance.randrange(2)] * BLOCK]

    candidates = [
        candidate(of(made(chance.randint(1, 8))), str(index), chance.choice([None, None, OTHER]))
        for index in range(12)
    ]
    sessions = Sessions(unit, candidates)
    for _ in range(40):
        asked = made(chance.randint(0, 9)) + made(1)[: chance.randrange(BLOCK)]
        most = chance.randint(0, len(asked))
        found = sessions.find(token_bytes(asked), PLAIN, most)
        assert found.tokens == served(candidates, asked, most, unit)
        if found.tokens:
            assert found.candidate is not None
            theirs = found.candidate.session.token_ids
            assert theirs[: found.tokens * 4] == token_bytes(asked[: found.tokens])
            assert sessions.may_serve(token_bytes(asked))


def test_one_token_that_differs_ends_it() -> None:
    ids = list(range(160))
    for place in (0, 15, 16, 79, 80, 159):
        asked = list(ids)
        asked[place] += 1000
        found = Sessions(BLOCK, [candidate(of(ids))]).find(token_bytes(asked), PLAIN, 160)
        assert found.tokens == place // BLOCK * BLOCK


def test_ids_that_begin_within_a_token_are_none() -> None:
    # 0x00010000 and 0x01000000 have the same bytes one place apart.
    sessions = Sessions(BLOCK, [candidate(of([0x01000000] * 16))])
    assert sessions.find(token_bytes([0x00010000] * 16), PLAIN, 16).tokens == 0


def test_what_differs_is_missed_where_it_would_have_served_more() -> None:
    long, short = candidate(of(list(range(64))), "l", OTHER), candidate(of(list(range(32))), "s")
    for order in ([long, short], [short, long]):
        found = Sessions(BLOCK, order).find(token_bytes(range(100)), PLAIN, 99)
        assert found.tokens == 32
        assert found.missed == (("l.thaw", OTHER),)


@pytest.mark.parametrize(
    ("members", "inputs"),
    [
        ({"adapter": Adapter("a", "0a" * 32)}, PLAIN),
        ({}, Inputs(Adapter("a", "0a" * 32), None, ())),
        ({"adapter": Adapter("a", "0a" * 32)}, Inputs(Adapter("a", "0b" * 32), None, ())),
        ({"adapter": Adapter("a", "0a" * 32)}, Inputs(Adapter("b", "0a" * 32), None, ())),
        ({"salt_sha256": "0a" * 32}, PLAIN),
        ({}, Inputs(None, "0a" * 32, ())),
        ({"salt_sha256": "0a" * 32}, Inputs(None, "0b" * 32, ())),
        ({"media": (Media("x", 3, 4),)}, PLAIN),
        ({"media": (Media("x", 3, 4),)}, Inputs(None, None, (Media("y", 3, 4),))),
        ({"media": (Media("x", 3, 4),)}, Inputs(None, None, (Media("x", 3, 5),))),
        ({}, Inputs(None, None, (Media("x", 3, 4),))),
    ],
)
def test_other_inputs_are_another_session(members: dict[str, Any], inputs: Inputs) -> None:
    sessions = Sessions(BLOCK, [candidate(of(list(range(64)), **members))])
    found = sessions.find(token_bytes(range(64)), inputs, 64)
    assert found.tokens == 0
    assert [why.reason for _, why in (*found.missed, *found.hidden)] == ["inputs"]
    assert bool(found.hidden) == (members.get("salt_sha256") != inputs.salt_sha256)
    same = Inputs(
        members.get("adapter"), members.get("salt_sha256"), tuple(members.get("media", ()))
    )
    assert sessions.find(token_bytes(range(64)), same, 64).tokens == 64


def test_whatever_else_differs_what_has_another_salt_is_hidden() -> None:
    other = of(list(range(64)), salt_sha256="0a" * 32)
    found = Sessions(BLOCK, [candidate(other, OTHER)]).find(token_bytes(range(64)), PLAIN, 64)
    assert (found.missed, len(found.hidden)) == ((), 1)


def test_media_behind_what_is_served_do_not_matter() -> None:
    sessions = Sessions(BLOCK, [candidate(of(list(range(64)), media=(Media("x", 40, 4),)))])
    inputs = Inputs(None, None, (Media("y", 40, 4),))
    assert sessions.find(token_bytes(range(64)), inputs, 32).tokens == 32


def test_what_comes_before_media_that_differ_is_served() -> None:
    sessions = Sessions(BLOCK, [candidate(of(list(range(64)), media=(Media("x", 40, 4),)))])
    for inputs in (PLAIN, Inputs(None, None, (Media("y", 40, 4),))):
        found = sessions.find(token_bytes(range(64)), inputs, 64)
        assert found.tokens == 32
    early = Inputs(None, None, (Media("y", 5, 4), Media("x", 40, 4)))
    found = sessions.find(token_bytes(range(64)), early, 64)
    assert (found.tokens, [why.reason for _, why in found.missed]) == (0, ["inputs"])


def windowed(tokens: int, window: int, first: int) -> Session:
    blocks = tokens // BLOCK
    groups = (
        Group("full", BLOCK, None, 0, blocks, LAYERS[:1]),
        Group("sliding-window", BLOCK, window, first, blocks - first, LAYERS[1:]),
    )
    return replace(of(list(range(tokens))), groups=groups)


@pytest.mark.parametrize("window", [1, 2, 16, 17, 18, 33, 40])
@pytest.mark.parametrize("first_block", [0, 1, 3, 5])
@pytest.mark.parametrize("most", [16, 48, 64, 96, 112, 128])
def test_a_window_serves_where_all_that_it_reaches_back_to_is_there(
    window: int, first_block: int, most: int
) -> None:
    sessions = Sessions(BLOCK, [candidate(windowed(128, window, first_block))])
    found = sessions.find(token_bytes(range(128)), PLAIN, most)
    # The token behind `most` attends to those from most - window + 1 on.
    needed = max(0, most - window + 1)
    expected = most if needed >= first_block * BLOCK else 0
    assert found.tokens == expected
    assert [why.reason for _, why in found.missed] == ([] if expected else ["window"])


@pytest.mark.parametrize("first_block", [0, 5, 7])
@pytest.mark.parametrize("most", [16, 96, 112, 128])
def test_a_state_serves_where_it_was_stored(first_block: int, most: int) -> None:
    kept = Group("state", BLOCK, None, first_block, 8 - first_block, LAYERS[1:])
    said = of(list(range(128)))
    said = replace(said, groups=(replace(said.groups[0], layers=LAYERS[:1]), kept))
    found = Sessions(BLOCK, [candidate(said)]).find(token_bytes(range(128)), PLAIN, most)
    expected = most if most >= (first_block + 1) * BLOCK else 0
    assert found.tokens == expected
    assert [why.reason for _, why in found.missed] == ([] if expected else ["state"])


def test_a_shorter_session_serves_where_the_state_of_a_longer_one_is_too_late() -> None:
    def stated(tokens: int) -> Session:
        last = tokens // BLOCK - 1
        return replace(
            of(list(range(tokens))), groups=(Group("state", BLOCK, None, last, 1, LAYERS),)
        )

    sessions = Sessions(BLOCK, [candidate(stated(128)), candidate(stated(64), "b")])
    found = sessions.find(token_bytes([*range(112), 7]), PLAIN, 112)
    assert (found.tokens, [name for name, _ in found.missed]) == (64, ["a.thaw"])


def test_sessions_of_less_than_a_unit_serve_nothing() -> None:
    sessions = Sessions(2 * BLOCK, [candidate(of(list(range(16))))])
    assert not sessions.may_serve(token_bytes(range(16)))
    assert sessions.find(token_bytes(range(64)), PLAIN, 64).tokens == 0
