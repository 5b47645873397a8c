"""Which sessions the scheduler's side picks, what it counts, and what requests may ask of it."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_requests import (
    Pool,
    begin,
    bind,
    binding,
    end,
    missed,
    misses,
    request,
    scheduler,
    step,
)
from made_sessions import BLOCK, ENGINE, freeze, session

from thaw.vllm.kv.orders import Answers, Moved


def test_a_session_serves_a_request_that_begins_with_it(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    assert begin(made, request()) == 64
    (load,) = step(made).loads
    assert load.path == os.fspath(tmp_path / "a.thaw")
    assert (list(load.groups[0].stored), list(load.groups[0].numbers)) == (
        [0, 1, 2, 3],
        [1, 2, 3, 4],
    )


def test_what_is_cached_already_is_not_loaded(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    assert begin(made, request(), computed=32) == 32
    (load,) = step(made).loads
    assert (list(load.groups[0].stored), list(load.groups[0].numbers)) == ([2, 3], [3, 4])
    assert begin(made, request("other"), computed=64) == 0


def test_the_last_token_is_computed(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    assert scheduler(tmp_path).matched_tokens(request(ids=range(64)), 0) == 48


def test_ranks_are_asked_once_there_is_something_to_compare(tmp_path: Path) -> None:
    made = scheduler(tmp_path, bound=False)
    assert made.matched_tokens(request(), 0) == 0
    assert not made.take_orders().wants_binding
    freeze(tmp_path / "a.thaw")
    assert made.matched_tokens(request(), 0) is None
    assert made.take_orders().wants_binding
    bind(made)
    assert made.matched_tokens(request(), 0) == 64
    assert not made.take_orders().wants_binding


def test_eight_requests_at_once_read_a_session_once(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    assert begin(made, request("0")) == 64
    assert [begin(made, request(str(index))) for index in range(1, 8)] == [None] * 7
    (load,) = step(made).loads
    end(made, load)
    assert [begin(made, request(str(index)), computed=64) for index in range(1, 8)] == [0] * 7
    assert not step(made).loads


def test_a_request_that_waits_goes_on_when_the_one_it_waits_for_is_aborted(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    first = request("0")
    begin(made, first)
    assert begin(made, request("1")) is None
    (load,) = step(made).loads
    made.finished(first, [[1, 2, 3, 4, 5]], ended_well=False)
    assert begin(made, request("1")) is None  # the blocks are still being written
    end(made, load)
    assert begin(made, request("1")) == 64


@pytest.mark.parametrize(
    ("members", "reason", "said"),
    [
        ({"fingerprint": "0e" * 32}, "weights", "0e0e0e0e0e0e0e0e"),
        ({"engine": ENGINE | {"dtype": "float32"}}, "engine", "float32"),
    ],
)
def test_a_session_of_another_engine_is_a_miss_with_a_reason(
    tmp_path: Path, members: dict[str, Any], reason: str, said: str
) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path, bound=False)
    bind(made, **members)
    asked = request()
    assert made.matched_tokens(asked, 0) == 0
    assert misses(made) == {reason: 1}
    assert said in missed(made, asked)


def test_a_request_that_is_asked_for_again_and_again_counts_one_miss(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw", session(fingerprint="0e" * 32))
    made = scheduler(tmp_path)
    asked = request()
    for _ in range(5):  # as long as there are no blocks for it
        assert made.matched_tokens(asked, 0) == 0
    assert misses(made) == {"weights": 1}
    made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    assert made.matched_tokens(request(), 0) == 0
    assert misses(made) == {"weights": 2}


def test_ranks_that_cannot_say_are_the_reason_and_not_their_number(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path, bound=False)
    asked = request()
    assert made.matched_tokens(asked, 0) is None
    made.hear(Answers(bindings={0: "rank 0: the weights have changed"}))
    assert made.matched_tokens(asked, 0) == 0
    assert misses(made) == {"unbound": 1}
    assert "rank 0: the weights have changed" in missed(made, asked)


def test_a_load_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    assert begin(made, request("0")) == 64
    (load,) = step(made).loads
    end(made, load, reason="damaged", error="a chunk fails")
    assert begin(made, request("0")) == 0
    made._index.folder._scanned_s = -1e9  # time has passed: what was used meanwhile is seen
    assert begin(made, request("1")) == 0
    assert misses(made)["damaged"] >= 1


def test_a_session_that_was_replaced_is_tried_again(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    begin(made, request("0"))
    end(made, step(made).loads[0], reason="damaged", error="a chunk fails")
    freeze(tmp_path / "a.thaw")
    assert begin(made, request("1")) == 64


def test_tokens_are_counted_when_they_have_been_loaded(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", session(first=500))
    made = scheduler(tmp_path)
    begin(made, request("0"))
    end(made, step(made).loads[0], reason="damaged", error="a chunk fails")
    assert made.counts.data.get("load_tokens", 0) == 0
    begin(made, request("1", range(500, 565)))
    end(made, step(made).loads[0])
    assert made.counts.data["load_tokens"] == 64


def test_a_file_that_cannot_be_read_is_a_reason_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = freeze(tmp_path / "a.thaw")
    data = bytearray(path.read_bytes())
    data[4200] ^= 1
    path.write_bytes(data)
    made = scheduler(tmp_path)
    for name in "01":
        assert made.matched_tokens(request(name), 0) == 0
    assert misses(made) == {"damaged": 1}
    assert caplog.text.count("a.thaw") == 1


@pytest.mark.parametrize("what", ["a file", "no folder", "gone"])
def test_a_folder_that_cannot_be_listed_costs_no_request(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    folder = tmp_path / "sessions"
    if what == "a file":
        folder.write_text("")
    made = scheduler(folder)
    if what == "gone":

        def broken() -> Any:
            raise OSError(5, "Input/output error", os.fspath(folder))

        monkeypatch.setattr(made._index.folder, "changed", lambda: True)
        monkeypatch.setattr(made._index.folder, "scan", broken)
        monkeypatch.setattr(made._index.folder, "refresh", broken)
    for name in "01":
        assert made.matched_tokens(request(name), 0) == 0
    assert misses(made) == ({} if what == "no folder" else {"folder": misses(made)["folder"]})
    assert caplog.text.count("cannot be listed") == (what != "no folder")


def test_a_request_that_needs_all_of_its_prompt_computed_loads_nothing(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    asked = request()
    asked.skip_reading_prefix_cache = True  # it wants the logprobs of its prompt
    assert made.matched_tokens(asked, 0) == 0
    assert misses(made) == {}


def test_what_is_frozen_is_what_has_blocks(tmp_path: Path) -> None:
    made = scheduler(tmp_path)
    stays, said = made.finished(request(freeze="a"), [[7, 8, 9, 10, 11]], ended_well=True)
    assert stays
    (order,) = step(made).freezes
    assert struct.unpack("<64I", order.token_ids) == tuple(range(64))
    assert list(order.groups[0].numbers) == [7, 8, 9, 10]
    assert len(order.hashes.values) == 4 * 32
    assert said["thaw"] == {
        "session": "a.thaw",
        "snapshot_id": order.snapshot_id,
        "tokens": 64,
    }


def test_an_aborted_request_is_not_frozen(tmp_path: Path) -> None:
    made = scheduler(tmp_path)
    stays, said = made.finished(request(freeze="a"), [[1, 2, 3, 4, 5]], ended_well=False)
    assert not stays
    assert said["thaw"]["error"] == "the request was aborted"


def test_a_folder_that_is_not_there_is_made_by_the_first_freeze(tmp_path: Path) -> None:
    made = scheduler(tmp_path / "deep" / "sessions")
    stays, _ = made.finished(request(freeze="a"), [[1, 2, 3, 4, 5]], ended_well=True)
    assert stays
    assert (tmp_path / "deep" / "sessions").is_dir()


def test_a_reset_asks_ranks_anew(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    made.bind_pool(Pool())
    assert made.reset()
    assert made.matched_tokens(request(), 0) is None
    orders = made.take_orders()
    assert orders.wants_binding
    assert orders.reset
    assert not made.take_orders().reset


def test_a_reset_while_blocks_are_in_use_says_no_and_clears_nothing_of_workers(
    tmp_path: Path,
) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    made.bind_pool(Pool(used=3))  # vLLM has not reset its cache either
    assert not made.reset()
    assert not made.take_orders().reset


def test_of_two_ranks_both_have_to_say(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw", ranks=2)
    made = scheduler(tmp_path, ranks=2, bound=False)
    made.hear(Answers(bindings={1: binding(1)}))
    assert made.matched_tokens(request(), 0) is None
    made.hear(Answers(bindings={0: binding(0)}))
    assert begin(made, request()) == 64


@pytest.mark.parametrize(("ranks", "found"), [(1, 2), (2, 1)])
def test_a_session_of_other_ranks_names_both_numbers(
    tmp_path: Path, ranks: int, found: int
) -> None:
    freeze(tmp_path / "a.thaw", ranks=found)
    made = scheduler(tmp_path, ranks=ranks)
    asked = request()
    assert made.matched_tokens(asked, 0) == 0
    assert misses(made) == {"ranks": 1}
    assert f"it has {found} ranks, this engine has {ranks}" in missed(made, asked)


def test_a_rank_that_failed_to_load_is_enough(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw", ranks=2)
    made = scheduler(tmp_path, ranks=2)
    begin(made, request("0"))
    (load,) = step(made).loads
    made.hear(Answers(loads={"0": [Moved(1, load.path, load.snapshot_id, reason="damaged")]}))
    made.hear(Answers(loads={"0": [Moved(0, load.path, load.snapshot_id, 5)]}))
    made.received("0")
    assert begin(made, request("0")) == 0
    assert begin(made, request("1")) == 0
    assert made.counts.data.get("load_tokens", 0) == 0


def test_prompt_embeddings_have_no_session(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    asked = request(freeze="b")
    asked.prompt_embeds = object()
    assert made.matched_tokens(asked, 0) == 0
    stays, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    assert not stays
    assert "prompt embeddings" in said["thaw"]["error"]
    assert "prompt embeddings" in said["thaw"]["missed"]


def test_only_what_changed_of_many_sessions_is_opened_or_compared(
    tmp_path: Path, monkeypatch: Any
) -> None:
    import thaw.vllm.kv.folder as folder_module
    import thaw.vllm.kv.index as module

    count = 50
    for index in range(count):
        freeze(tmp_path / f"{index}.thaw", session(first=1000 * index))
    opened: list[Path] = []
    compared: list[Any] = []
    read, compare = folder_module.read_entry, module.compare

    def reading(path: Path) -> Any:
        opened.append(path)
        return read(path)

    def comparing(*args: Any) -> Any:
        compared.append(args)
        return compare(*args)

    monkeypatch.setattr(folder_module, "read_entry", reading)
    monkeypatch.setattr(module, "compare", comparing)
    made = scheduler(tmp_path)
    assert (len(opened), len(compared)) == (count, 0)
    assert begin(made, request("0", range(65))) == 64
    end(made, step(made).loads[0])
    assert (len(opened), len(compared)) == (count, count)
    made._index.folder._scanned_s = -1e9  # time has passed: what was used meanwhile is seen
    assert begin(made, request("1", range(1000, 1065))) == 64
    assert (len(opened), len(compared)) == (count, count)
    end(made, step(made).loads[0])
    freeze(tmp_path / "one more.thaw", session(first=99_000))
    (tmp_path / "7.thaw").unlink()
    assert begin(made, request("2", range(99_000, 99_065))) == 64
    assert begin(made, request("3", range(7000, 7065))) == 0
    assert (len(opened), len(compared)) == (count + 1, count + 1)


def test_a_request_whose_session_has_no_whole_block_of_it_is_not_frozen(tmp_path: Path) -> None:
    made = scheduler(tmp_path)
    stays, said = made.finished(request(ids=range(BLOCK), freeze="a"), [[1]], ended_well=True)
    assert not stays
    assert "not one whole block of 16" in said["thaw"]["error"]


def test_nothing_is_kept_of_requests_that_have_ended(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw")
    freeze(tmp_path / "b.thaw", session(fingerprint="0e" * 32, first=500))
    made = scheduler(tmp_path)

    def sizes() -> int:
        found = (getattr(made, name) for name in vars(made))
        return sum(len(each) for each in found if isinstance(each, dict | set | list))

    def run(name: str) -> None:
        for tokens, reason in ((range(65), ""), (range(500, 565), ""), (range(65), "damaged")):
            each = request(name, tokens)
            if begin(made, each):
                end(made, step(made).loads[0], reason=reason, error="fails")
            made.matched_tokens(each, 0)
            made.finished(each, [[1, 2, 3, 4, 5]], ended_well=False)

    run("0")
    before = sizes()
    for index in range(1, 5):
        run(str(index))
    assert sizes() == before


def test_a_session_that_is_asked_for_is_compared_though_all_is_cached(tmp_path: Path) -> None:
    freeze(tmp_path / "a.thaw", session(fingerprint="0e" * 32))
    made = scheduler(tmp_path)
    asked = request(restore="a")
    assert made.matched_tokens(asked, 64) == 0
    assert "0e0e0e0e0e0e0e0e" in missed(made, asked)


def test_one_layer_less_is_another_layout(tmp_path: Path) -> None:
    said = session()
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path, bound=False)
    name = next(iter(said.layers))
    other = replace(said.layers[name], backend="OTHER")
    bind(made, layers={**said.layers, name: other})
    assert made.matched_tokens(request(), 0) == 0
    assert misses(made) == {"layout": 1}
