"""Counters of sessions, as vLLM takes, joins, logs and shows them."""

from __future__ import annotations

from typing import Any, ClassVar

import without_vllm

from thaw.vllm.kv.counts import Counts, Metrics


def counts(misses: dict[str, int] | None = None, **numbers: float) -> Counts:
    made = Counts({})
    for name, number in numbers.items():
        made.add(name, number)
    for reason, count in (misses or {}).items():
        for _ in range(count):
            made.miss(reason)
    return made


def test_what_is_taken_begins_anew() -> None:
    made = counts({"weights": 2}, loads=1, load_bytes=5)
    taken = made.take()
    assert taken is not None
    assert taken.data == {"loads": 1, "load_bytes": 5, "misses": {"weights": 2}}
    assert made.take() is None
    made.add("loads")
    assert taken.data["loads"] == 1
    again = made.take()
    assert again is not None
    assert again.data == {"loads": 1}


def test_joining_sums_up_and_changes_neither() -> None:
    one, other = counts({"weights": 1, "gone": 1}, loads=1), counts({"weights": 2}, freezes=3)
    joined = one.aggregate(other)
    assert joined.data == {"loads": 1, "freezes": 3, "misses": {"weights": 3, "gone": 1}}
    assert one.data == {"loads": 1, "misses": {"weights": 1, "gone": 1}}
    assert other.data == {"freezes": 3, "misses": {"weights": 2}}


def test_nothing_joined_is_nothing() -> None:
    assert counts().is_empty()
    assert counts().aggregate(counts()).is_empty()
    assert not counts({"gone": 1}).is_empty()


def test_a_log_line_has_misses_by_reason() -> None:
    assert counts({"gone": 2}, loads=1).reduce() == {"loads": 1, "missed for gone": 2}


class Counter:
    made: ClassVar[dict[str, Counter]] = {}

    def __init__(self, name: str, documentation: str, labelnames: list[str]) -> None:
        assert documentation
        self.labelnames, self.values = labelnames, dict[tuple[Any, ...], float]()
        assert name not in self.made
        self.made[name] = self

    def labels(self, *labels: object) -> Counter:
        assert len(labels) == len(self.labelnames)
        self.last = labels
        return self

    def inc(self, value: float) -> None:
        assert value >= 0
        self.values[self.last] = self.values.get(self.last, 0) + value


def test_all_that_is_counted_is_shown_under_a_name_that_vllm_takes_back() -> None:
    Counter.made.clear()
    labels = ["model_name", "engine"]
    metrics = Metrics(object(), {"Counter": Counter}, labels, {0: ["llama", "0"]})
    numbers = ["loads", "load_tokens", "load_bytes", "load_seconds", "load_failures"]
    numbers += ["freezes", "freeze_bytes", "freeze_seconds", "freeze_failures"]
    said = counts({"gone": 2}, **dict.fromkeys(numbers, 3))
    metrics.observe(said.data)
    metrics.observe(counts({"gone": 1}).data)
    # It drops collectors of that prefix before the next engine of a process makes its own.
    assert all(name.startswith("vllm:thaw_session_") for name in Counter.made)
    misses = Counter.made.pop("vllm:thaw_session_misses")
    assert misses.labelnames == [*labels, "reason"]
    assert misses.values == {("llama", "0", "gone"): 3}
    assert len(Counter.made) == len(numbers)
    assert all(each.values == {("llama", "0"): 3} for each in Counter.made.values())
    assert without_vllm.KVConnectorStats().data == {}
