"""States: found in vLLM's cache when a request has let go of them, held until they are written."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_requests import Pool, begin, binding, request, scheduler, step
from made_sessions import BLOCK, LAYERS, freeze, session

from thaw.vllm.kv.binding import GroupOf
from thaw.vllm.kv.orders import Answers, Freeze, Moved
from thaw.vllm.kv.record import Group

FULL = GroupOf("full", BLOCK, None, LAYERS[:1])
STATE = GroupOf("state", BLOCK, None, LAYERS[1:])
BLOCKS = [[7, 8, 9, 10, 11], [0, 0, 0, 0, 5]]
"""Of a request that ended: vLLM keeps the state that it goes on from alone."""
LAST = b"\3" * 32
"""The hash of four blocks."""


def engine(folder: Path, pool: Any, **options: Any) -> Any:
    made = scheduler(folder, groups=(FULL, STATE), **options)
    made.bind_pool(pool)
    return made


def frozen(made: Any, **asked: Any) -> tuple[Freeze, dict[str, Any]]:
    """Freeze a request of 65 tokens as it ends."""
    stays, said = made.finished(request(**{"freeze": "a", **asked}), BLOCKS, ended_well=True)
    assert stays
    (order,) = step(made).freezes
    return order, said["thaw"]


def ended(made: Any, order: Freeze, rank: int = 0, **members: Any) -> None:
    moved = Moved(rank, order.path, order.snapshot_id, **members)
    made.hear(Answers(freezes={order.request_id: [moved]}))


def test_the_last_state_is_stored_beside_all_keys_and_values(tmp_path: Path) -> None:
    order, said = frozen(engine(tmp_path, Pool(cached={(LAST, 1): 42})))
    assert said["tokens"] == 64
    assert order.first_blocks == (0, 3)
    assert [list(each.numbers) for each in order.groups] == [[7, 8, 9, 10], [42]]
    assert [list(each.stored) for each in order.groups] == [[0, 1, 2, 3], [0]]


@pytest.mark.parametrize("reason", ["", "failed"])
def test_a_state_is_held_until_every_rank_has_written_it(tmp_path: Path, reason: str) -> None:
    pool = Pool(cached={(LAST, 1): 42})
    made = engine(tmp_path, pool, ranks=2)
    order, _ = frozen(made)
    assert pool.touched == [42]
    assert not made.reset()
    ended(made, order, 1, reason=reason, error="disk full")
    assert pool.touched == [42]
    ended(made, order, 0, reason="failed", error="the other one failed")
    assert pool.touched == []
    assert made.reset()


def test_a_session_ends_where_there_is_still_a_state(tmp_path: Path) -> None:
    order, said = frozen(engine(tmp_path, Pool(cached={(b"\1" * 32, 1): 42})))
    assert (said["tokens"], len(order.token_ids)) == (32, 32 * 4)
    assert (order.first_blocks, len(order.hashes.values)) == ((0, 1), 2 * 32)
    assert [list(each.numbers) for each in order.groups] == [[7, 8], [42]]


def test_a_session_ends_where_it_is_asked_to(tmp_path: Path) -> None:
    cached = {(bytes([index]) * 32, 1): 40 + index for index in range(4)}
    order, said = frozen(engine(tmp_path, Pool(cached=cached)), tokens=40)
    assert (said["tokens"], list(order.groups[1].numbers)) == (32, [41])


@pytest.mark.parametrize("cached", [{}, {(LAST, 0): 42}])
def test_where_there_is_no_state_any_more_nothing_is_frozen(tmp_path: Path, cached: Any) -> None:
    pool = Pool(cached=cached)
    made = engine(tmp_path, pool)
    stays, said = made.finished(request(freeze="a"), BLOCKS, ended_well=True)
    assert not stays
    assert "no state any more that ends with one of its blocks" in said["thaw"]["error"]
    assert not pool.touched
    assert not list(tmp_path.iterdir())


def test_several_groups_of_states_end_at_the_same_token(tmp_path: Path) -> None:
    cached = {(LAST, 0): 40, (LAST, 1): 41, (b"\1" * 32, 0): 42, (b"\1" * 32, 2): 43}
    cached |= {(b"\1" * 32, 1): 44}
    made = scheduler(tmp_path, groups=(STATE,) * 3)
    made.bind_pool(Pool(cached=cached))
    made.finished(request(freeze="a"), [[0, 0, 0, 0, 5]] * 3, ended_well=True)
    (order,) = step(made).freezes
    assert struct.unpack("<32I", order.token_ids) == tuple(range(32))
    assert [list(each.numbers) for each in order.groups] == [[42], [44], [43]]


def test_a_state_is_not_held_where_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    pool = Pool(cached={(LAST, 1): 42})
    made = engine(tmp_path / "file" / "sessions", pool)
    stays, said = made.finished(request(freeze="a"), BLOCKS, ended_well=True)
    assert (stays, pool.touched) == (False, [])
    assert "error" in said["thaw"]


def stated(folder: Path) -> Any:
    """Make an engine, and a session of 64 tokens with the last state."""
    groups = (
        Group("full", BLOCK, None, 0, 4, FULL.layers),
        Group("state", BLOCK, None, 3, 1, STATE.layers),
    )
    freeze(folder / "a.thaw", replace(session(), groups=groups))
    made = engine(folder, Pool(), bound=False)
    made.hear(Answers(bindings={0: binding(groups=(FULL, STATE))}))
    return made


@pytest.mark.parametrize("computed", [0, 32])
def test_the_state_is_loaded_alone(tmp_path: Path, computed: int) -> None:
    made, asked = stated(tmp_path), request()
    assert made.matched_tokens(asked, computed) == 64 - computed
    # vLLM gives blocks to states that nothing needs, or does not.
    made.allocated(asked, [[1, 2, 3, 4, 5], [0, 6, 7, 8, 9]], 64 - computed)
    (load,) = step(made).loads
    full, state = load.groups
    assert list(full.stored) == list(range(computed // BLOCK, 4))
    assert (list(state.stored), list(state.numbers)) == ([0], [8])


def test_a_request_of_less_is_told_of_the_state(tmp_path: Path) -> None:
    made, asked = stated(tmp_path), request(ids=range(64))
    assert begin(made, asked) == 0
    _, said = made.finished(asked, [[1, 2, 3, 4]] * 2, ended_well=True)
    assert said["thaw"]["missed"] == (
        "a.thaw: its first state is of 64 tokens: it serves requests that begin with all of it"
    )
