"""What processes answer about sessions becomes rows, and tokens are timed as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ENGINE = {"model": "/a", "kv_transfer_config": {}, "dtype": "bfloat16"}


def decoded(tokens: int, token: int = 5, logprob: float = -1.5) -> dict[str, Any]:
    return {"tokens": tokens, "token_ids": [token, 6], "logprobs": [[(token, logprob)]]}


def process(status: int = 0, *errors: str, **actions: Any) -> dict[str, Any]:
    done = [{"action": name, "elapsed_s": 1.0, "value": value} for name, value in actions.items()]
    row = {"name": "froze", "status": status, "hung": False, "wall_s": 9.0, "done": done}
    return row | ({"errors": list(errors)} if status else {})


def same(froze: dict[str, Any], restored: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = import_module("session_rows").same_rows(
        "m", ENGINE, froze, restored
    )
    return rows


def test_the_same_bits_are_the_same() -> None:
    froze = process(from_cache=decoded(640), behind_other=decoded(640, 7))
    again = {"tokens": 640, "tensors": 4, "differ": 0}
    (row,) = same(froze, process(from_session=decoded(640), freeze_again=again))
    assert row["passed"]
    assert "prefill_equal" not in row
    assert row["counts"]
    assert (row["tokens_equal"], row["logprobs_equal"], row["differ"]) == (True, True, 0)
    assert row["engine"] == {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        ({"from_session": decoded(640, 8)}, (False, False)),
        ({"from_session": decoded(640, 5, -1.5000001)}, (True, False)),
        ({"freeze_again": {"tokens": 640, "tensors": 4, "differ": 1}}, (True, True)),
    ],
)
def test_one_other_bit_is_not_the_same(change: dict[str, Any], equal: tuple[bool, bool]) -> None:
    froze = process(from_cache=decoded(640), behind_other=decoded(640, 7))
    (row,) = same(froze, process(**{"from_session": decoded(640)} | change))
    assert not row["passed"]
    assert (row["tokens_equal"], row["logprobs_equal"]) == equal


def test_a_cache_that_does_not_count_proves_nothing() -> None:
    froze = process(from_cache=decoded(640), behind_other=decoded(640))
    (row,) = same(froze, process(from_session=decoded(640)))
    assert not row["counts"]
    assert not row["passed"]


@pytest.mark.parametrize("logprob", [-1.5, -1.25])
def test_what_each_process_computes_itself_is_compared_too(logprob: float) -> None:
    froze = process(from_cache=decoded(640), from_prefill=decoded(640))
    found = process(from_session=decoded(640), from_prefill=decoded(640, logprob=logprob))
    (row,) = same(froze, found)
    assert row["prefill_equal"] == (logprob == -1.5)
    assert row["passed"]


def test_a_process_that_fails_is_a_row_of_its_own() -> None:
    froze = process(from_cache=decoded(640))
    rows = same(froze, process(1, "RuntimeError: no", "b", from_session=decoded(640)))
    assert [row["passed"] for row in rows] == [True, False]
    assert rows[1]["error"] == "RuntimeError: no"
    (row,) = same(process(-9), process(-9))
    assert row["error"] == "the process did not come to the end"


def test_what_a_process_measured_becomes_rows() -> None:
    served = {"place": "page cache", "tokens": 8000, "nbytes": 9, "first_token_s": [1.0]}
    beside = [{"name": "hits", "tokens": 8000, "p99_s": [0.1]}]
    found = process(
        compute={"tokens": 8000, "prefill_s": [2.0]}, serve=served, beside=beside, refill=7
    )
    rows = import_module("session_rows").rows_of("m", found)
    assert [(row["part"], row["case"]) for row in rows] == [
        ("processes", "froze"),
        ("computed", "8,000 tokens"),
        ("served", "page cache"),
        ("beside", "hits"),
    ]
    assert all(row["shape"] == "m" for row in rows)
    assert rows[2]["first_token_s"] == [1.0]


def test_of_a_log_the_first_error_is_told_and_each_once() -> None:
    log = """\
    (Main pid=5) WARNING 11-28 [base.py:380] ValueError: Tokenizer not available
    (EngineCore pid=6) ERROR 11-28 [core.py:1510] thaw.errors.MismatchError: no, sessions
    thaw.errors.MismatchError: no, sessions
        raise RuntimeError(
    RuntimeError: Engine core initialization failed. See root cause above. {}
    resource_tracker.py:254: UserWarning: resource_tracker: There appear to be some
    """
    assert import_module("rank_process").errors_in(log) == [
        "thaw.errors.MismatchError: no, sessions",
        "RuntimeError: Engine core initialization failed. See root cause above. {}",
    ]


class Engine:
    """Gives what it is told to, step by step, each at its time."""

    vllm_config: Any

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, dict[str, int]]
    ) -> None:
        self._steps: Iterator[tuple[float, dict[str, int]]] = iter(steps)
        self._now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self._now)

    def add_request(self, *_: Any) -> None:
        pass

    def step(self) -> list[Any]:
        self._now, came = next(self._steps)
        return [
            SimpleNamespace(
                request_id=name,
                finished=not name.startswith("other"),
                kv_transfer_params={},
                outputs=[SimpleNamespace(token_ids=[0] * tokens)],
            )
            for name, tokens in came.items()
        ]


def test_each_token_is_timed_from_the_one_before_of_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [(1.0, {"other-0": 1}), (1.5, {"other-0": 1, "other-1": 1}), (1.75, {"asked": 1})]
    steps += [(2.5, {"other-0": 2, "other-1": 0}), (4.5, {"other-1": 1})]
    engine = Engine(monkeypatch, *steps)
    decoding = import_module("session_beside").Decoding(SimpleNamespace(llm_engine=engine))
    for name in ("other-0", "other-1"):
        decoding.add(name, {}, None, watched=True)
    decoding.add("asked", {}, None)
    decoding.until(lambda: len(decoding.intervals_s) == 4, "the tokens")
    assert decoding.intervals_s == [0.5, 1.0, 0.0, 3.0]
    assert list(decoding.ended) == ["asked"]


@pytest.mark.parametrize(
    ("kind", "expected"), [("freezes", [0.5]), ("hits", [0.5, 0.25]), ("alone", [1.0, 0.5, 0.25])]
)
def test_intervals_count_from_the_end_of_the_request_that_is_frozen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, expected: list[float]
) -> None:
    beside = import_module("session_beside")
    for name in ("prompt_of", "parameters", "check_cached"):
        monkeypatch.setattr(beside, name, lambda *_, **__: None)
    # What the request computes takes long; its file is there before another token comes.
    steps = [(1.0, {"other": 1}), (2.0, {"other": 1, "asked-0-0": 1})]
    steps += [(2.5, {"other": 1}), (2.75, {"other": 1})]
    engine = Engine(monkeypatch, *steps)
    engine.vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=2048))
    llm = SimpleNamespace(llm_engine=engine)
    decoding, rounds = beside.Decoding(llm), beside.Rounds(llm, 640, tmp_path, 1)
    decoding.add("other", {}, None, watched=True)
    decoding.step()
    rounds._span_s = 1.7
    (tmp_path / "asked-0-0.thaw").touch()
    rounds._once(kind, decoding, 0)
    assert decoding.intervals_s == expected


def test_what_does_not_come_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, (30.0, {}), (61.0, {}))
    decoding = import_module("session_beside").Decoding(SimpleNamespace(llm_engine=engine))
    with pytest.raises(RuntimeError, match="the file did not come in 60 s"):
        decoding.until(lambda: False, "the file")


def test_others_that_end_spoil_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, (1.0, {"asked": 1}))
    decoding = import_module("session_beside").Decoding(SimpleNamespace(llm_engine=engine))
    decoding.add("asked", {}, None, watched=True)
    with pytest.raises(RuntimeError, match="the round is too long"):
        decoding.step()


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.0), (100, 99.0), (101, 100.0), (1000, 990.0)]
)
def test_99_of_100_do_not_exceed_the_p99(count: int, expected: float) -> None:
    values = [float(value) for value in range(count, 0, -1)]
    assert import_module("session_beside").p99(values) == expected


@pytest.mark.slow
def test_a_process_that_cannot_start_an_engine_says_why(tmp_path: Path) -> None:
    run = import_module("rank_process").run_engine
    engine = {"no_such_option_of_an_engine": 1, "model": str(tmp_path)}
    row = run(tmp_path, "a", engine, [["bus", 1]], limit_s=100, script="session_engine.py")
    assert row["status"] == 1
    assert row["done"] == []
    assert row["log"]
    assert row["errors"]
    assert row["errors"][0].split(": ")[0] in row["log"]


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., list[list[Any]]]:
    """Say what both processes are asked to do."""
    sessions = import_module("sessions")
    options = {"shape": "Llama-3.1-8B", "repeats": 5, "prefills": 3, "freezes": 4, "first": 1040}
    options |= {"skip_decoding": False, "skip_pinned": False, "tensor_parallel_size": 1}

    def made(lengths: list[int], *, disk: Path | None = None, **more: Any) -> list[list[Any]]:
        args, folders = SimpleNamespace(**options | more), sessions.Folders(*4 * [tmp_path], disk)
        both = (sessions._freezing, sessions._restoring)
        return [action for each in both for action in each(args, folders, lengths)]

    return made


def test_processes_know_what_they_are_asked(
    plan: Callable[..., list[list[Any]]], tmp_path: Path
) -> None:
    known = import_module("session_engine").ACTIONS
    actions = plan([1040, 32_000], disk=tmp_path)
    assert {name for name, *_ in actions} == set(known)
    for name, *arguments in actions:
        signature(known[name]).bind(None, *arguments)


def test_a_run_in_parts_measures_what_it_has(plan: Callable[..., list[list[Any]]]) -> None:
    part = plan([256, 8000], skip_decoding=True)
    assert "beside" not in {name for name, *_ in part}
    assert [each[1] for each in part if each[0] == "first"] == [8000]
    places = [each[3] for each in part if each[0] == "serve"]
    assert places == ["tmpfs", "pinned"] * 2
    unpinned = plan([256], skip_pinned=True)
    assert [each[3] for each in unpinned if each[0] == "serve"] == ["tmpfs"]
    assert [each[1] for each in plan([256, 8000]) if each[0] == "beside"] == [8000]
    assert [each[1] for each in plan([1040, 32_000, 100_000]) if each[0] == "beside"] == [32_000]


def test_models_that_are_small_are_not_refilled(plan: Callable[..., list[list[Any]]]) -> None:
    assert plan([256])[0] == ["refill"]
    assert "refill" not in {name for name, *_ in plan([256], shape="llama")}


def test_token_ids_of_lengths_and_others_begin_otherwise() -> None:
    ids = import_module("session_prompts").session_ids
    lengths = import_module("sessions").LENGTHS
    begin = [ids(each, 128_256)[:16] for each in lengths]
    begin += [ids(512, 128_256, other=other)[:16] for other in range(1, 18)]
    assert len({tuple(each) for each in begin}) == len(begin)
    assert all(8 <= each < 1024 for each in ids(2000, 1024))
