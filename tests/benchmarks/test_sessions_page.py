"""The page about sessions says what is in the results, and what is wrong or missing there."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest

SHAPE = "Llama-3.1-8B"
FIRST = (
    "65 blocks (136 MB) from tmpfs or page cache into the cache of a new process, request to first "
    "token beyond a prefix hit in GPU memory"
)
LOADED = "32,000 tokens (4.2 GB) from tmpfs"
COMPUTED = "the same against computing it again (prefill)"
FREEZE = "freeze of 32,000 tokens to tmpfs while 16 other requests decode"
P99 = f"{FREEZE}, their inter-token p99"
SAME = "tokens and logprobs after restoring"
PLAIN = {"buffered, 4 x 4 MiB": [0.2, 0.3], "buffered, 16 x 4 MiB": [0.125, 0.125]}
PREFILL_S = {1040: 0.0625, 32_000: 1.5}


def of(part: str, case: str, **more: Any) -> dict[str, Any]:
    return {"part": part, "case": case, "shape": SHAPE} | more


def computed(tokens: int) -> dict[str, Any]:
    seconds = [PREFILL_S[tokens] + more for more in (0.5, 0.0, -0.01)]
    name = f"{tokens:,} tokens"
    return of("computed", name, tokens=tokens, prefill_s=seconds, hit_s=[0.01, 0.012, 0.011])


def frozen(tokens: int) -> dict[str, Any]:
    row = of("frozen", f"{tokens:,} tokens", tokens=tokens, nbytes=tokens * 131_072)
    return row | {"samples_s": [0.2], "moving_s": [0.15], "plain_s": PLAIN, "route": "write"}


def served(tokens: int, first_s: float, place: str = "tmpfs") -> dict[str, Any]:
    row = of("served", place, tokens=tokens, nbytes=tokens * 131_072, route="read")
    row |= {"hit_s": [0.02, 0.0206], "first_token_s": [0.75 * first_s, first_s, first_s + 0.5]}
    return row | {"moving_s": [0.08, 0.1, 0.3], "called_s": [0.14, 0.16, 0.15]}


def beside(kind: str, p99_s: list[float], **more: Any) -> dict[str, Any]:
    row = of("beside", kind, tokens=32_000, others=16, p99_s=p99_s, moving_s=[])
    row |= {"median_s": [0.007, 0.0075], "longest_s": [0.015, 0.0151], "intervals": [900, 901]}
    return row | more


def same(tokens: int, **more: Any) -> dict[str, Any]:
    row = of("same", SHAPE, tokens=tokens, decoded_tokens=16, distinct_tokens=9, passed=True)
    row |= {"engine": {"tensor_parallel_size": 1}, "tokens_equal": True, "logprobs_equal": True}
    row |= {"prefill_equal": True}
    return row | {"counts": True, "tensors": 32, "differ": 0} | more


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    freezes = {"nbytes": 32_000 * 131_072, "plain_s": PLAIN}
    freezes["moving_s"] = [0.13, 0.12, 0.9, 0.125, 0.11, 0.13, 0.12, 0.125]
    return [
        of("processes", "froze", status=0, hung=False, wall_s=99.5, import_s=9.1, engine_s=45.2),
        *(computed(tokens) for tokens in PREFILL_S),
        *(frozen(tokens) for tokens in PREFILL_S),
        beside("freezes", [0.011, 0.0103], **freezes),
        beside("hits", [0.01, 0.01]),
        beside("alone", [0.005, 0.005]),
        of("first", "tmpfs", tokens=1040, nbytes=136_314_880, moving_s=[0.004])
        | {"first_token_s": [0.0195], "hit_s": [0.01, 0.011, 0.009]},
        served(1040, 0.03),
        served(32_000, 0.12),
        of("bus", "pinned copies", gbps=[55.0, 50.0, 51.0]),
        *(same(tokens) for tokens in PREFILL_S),
    ]


@pytest.fixture
def raw(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"machine": {"cores": 16}, "versions": {"vllm": "1.2.3"}, "rows": rows}


def judged(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = import_module("sessions_results").figures(rows)
    return {each.name: asdict(each) for each in found}


def made(*results: dict[str, Any]) -> str:
    names = ("sessions.json", "sessions_models.json")
    found = {name: dict(each) for name, each in zip(names, results, strict=False)}
    for each in found.values():
        each["figures"] = list(judged(each["rows"]).values())
    page: str = import_module("sessions_page").make(found)
    return page


def changed(rows: list[dict[str, Any]], part: str, case: str = "", **more: Any) -> list[Any]:
    def is_meant(row: dict[str, Any]) -> bool:
        return row["part"] == part and case in row["case"]

    assert any(map(is_meant, rows))
    return [row | more if is_meant(row) else row for row in rows]


def test_figures_are_named_as_asked_and_say_what_was_found(rows: list[dict[str, Any]]) -> None:
    found = judged(rows)
    names = [FIRST, LOADED, f"{LOADED}, first token", COMPUTED, FREEZE, P99, SAME]
    assert list(found) == names
    assert [name for name, each in found.items() if not each["reached"]] == [COMPUTED]
    assert (found[COMPUTED]["aim"], found[COMPUTED]["found"]) == (4, 2)
    assert "at every length, 1,040 tokens too" in found[COMPUTED]["note"]
    assert found[FIRST]["found"] == pytest.approx(0.0095)
    assert found[LOADED]["found"] == 32_000 * 131_072 / 0.1 / 1e9
    expected = 0.12 / (0.0203 + 32_000 * 131_072 / 51e9)
    assert found[f"{LOADED}, first token"]["found"] == pytest.approx(expected)
    assert found[FREEZE]["found"] == 1.0
    assert found[P99]["found"] == pytest.approx((1.1 + 1.03) / 2)
    assert found[P99]["note"] == "2.13 of that without the request too"
    assert (found[SAME]["found"], found[SAME]["unit"]) == (0, "of 2")


@pytest.mark.parametrize(
    ("figure", "part", "case", "change"),
    [
        (FIRST, "first", "", {"first_token_s": [0.0301]}),
        (FIRST, "same", "", {"passed": False}),
        (LOADED, "served", "", {"moving_s": [0.106]}),
        (LOADED, "same", "", {"passed": False}),
        (f"{LOADED}, first token", "served", "", {"first_token_s": [0.126]}),
        (f"{LOADED}, first token", "bus", "", {"gbps": [60.0]}),
        (FREEZE, "beside", "freezes", {"moving_s": [0.14]}),
        (FREEZE, "same", "", {"passed": False}),
        (P99, "beside", "freezes", {"p99_s": [0.0111, 0.0111]}),
        (SAME, "same", "", {"passed": False}),
    ],
)
def test_a_little_worse_or_other_bits_reach_nothing(
    rows: list[dict[str, Any]], figure: str, part: str, case: str, change: dict[str, Any]
) -> None:
    assert judged(changed(rows, part, case, **change))[figure]["reached"] is False


def test_what_was_not_measured_is_said(rows: list[dict[str, Any]]) -> None:
    found = judged([row for row in rows if row["part"] not in ("first", "bus", "beside")])
    for name in (FIRST, f"{LOADED}, first token", FREEZE, P99):
        assert (found[name]["found"], found[name]["reached"]) == (None, None)
    uncompared = judged([row for row in rows if row["part"] != "same"])
    assert SAME not in uncompared
    assert uncompared[LOADED]["reached"] is False
    assert uncompared[LOADED]["note"] == "but not compared"


def test_pinned_files_come_into_the_tables_once_they_are_measured(raw: dict[str, Any]) -> None:
    raw["rows"].append(served(32_000, 0.11, "pinned"))
    found = judged(raw["rows"])
    name = "32,000 tokens (4.2 GB) from pinned"
    assert (found[name]["aim"], found[name]["reached"]) == (48.0, False)
    assert found[f"{name}, first token"]["reached"] is True
    page = made(raw)
    assert "| pinned | 32,000 | 0.1000 | 41.9 |" in page
    assert "served s, pinned" in page


def test_the_page_says_what_was_found(raw: dict[str, Any]) -> None:
    page = made(raw)
    for line in (
        "| 1,040 | 136 | 0.062 | 0.0110 | 0.0203 | 0.0300 | 0.0225 to 0.5300 | 0.0097 | 1.31 |",
        "| tmpfs | 32,000 | 0.1000 | 41.9 | 0.1500 | 28.0 | read |",
        "| 1,040 | 136 | 0.0195 | 0.0100 | 0.0095 | 0.0040 |",
        "| 32,000 | 4194 | 0.1500 | 28.0 | 33.6 | 0.2000 | write |",
        "| freezes | 2 | 1,801 | 7.25 | 10.65 | 15.10 | 33.6 | 33.6 |",
        "| hits | 2 | 1,801 | 7.25 | 10.00 | 15.10 |  |  |",
        "| froze | 9.1 | 45.2 | 99.5 | well |",
        f"| {SHAPE} | 1 | CUDA graphs | 1,040 | 16 | yes | yes | equal | yes | yes |",
        "From tmpfs restoring is sooner than prefill at every length, 1,040 tokens too.",
    ):
        assert line in page.splitlines(), page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logprobs_equal": False}, "| yes | **no** | equal | yes | yes |"),
        ({"tokens_equal": False, "logprobs_equal": False}, "| **no** | **no** | equal | yes |"),
        ({"differ": 3}, "| yes | yes | **3 differ** | yes | yes |"),
        ({"counts": False}, "| yes | yes | equal | **no** | yes |"),
        ({"prefill_equal": False}, "| yes | yes | equal | yes | **no** |"),
    ],
)
def test_other_bits_are_said(raw: dict[str, Any], change: dict[str, Any], said: str) -> None:
    raw["rows"] = changed(raw["rows"], "same", **change, passed=False)
    assert said in made(raw)


def test_models_stand_beside_and_failures_are_said(raw: dict[str, Any]) -> None:
    models = copy.deepcopy(raw)
    eager = {"tensor_parallel_size": 2, "enforce_eager": True}
    error = {"engine": eager, "error": "ValueError: no | cache", "passed": False}
    failed = {"part": "same", "case": "gemma3", "shape": "gemma3"} | error
    models["rows"] = [same(640, case="mixtral", shape="mixtral"), failed]
    page = made(raw, models)
    assert "| mixtral | 1 | CUDA graphs | 640 | 16 | yes | yes | equal | yes | yes |" in page
    assert "| gemma3 | 2 | eager |  |  |  | **failed** |  |  |  |" in page
    assert "- gemma3: ValueError: no \\| cache" in page
    assert "| 1 of 2 | **no** | sessions_models.json |" in page


def test_every_measured_number_of_the_page_comes_from_the_results(raw: dict[str, Any]) -> None:
    """Change every number of the results: no number of the tables stays."""
    other = copy.deepcopy(raw)
    for index, row in enumerate(other["rows"]):
        for key, value in row.items():
            row[key] = scaled(value, 1.7 + 0.09 * index)
    other["machine"]["cores"] = 15
    other["versions"]["vllm"] = "9.8.7"
    page, after = (numbers(made(each)) for each in (raw, other))
    assert len(page) == len(after) > 50
    assert [(a, b) for a, b in zip(page, after, strict=True) if a == b] == [], page


def scaled(value: Any, factor: float) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value * factor
    if isinstance(value, list):
        return [scaled(each, factor) for each in value]
    if isinstance(value, dict):
        return {key: scaled(each, factor) for key, each in value.items()}
    return value


def numbers(page: str) -> list[str]:
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    asked = re.compile(rf"\| (at least|at most) [^|]*|\(4\.2 GB\)|{SHAPE}")
    text = asked.sub("", "\n".join(tables))
    return re.findall(r"\d+\.\d+", text)


@pytest.mark.parametrize(
    ("prefill_s", "wins", "said"),
    [
        ({1040: 0.0625, 32_000: 1.5}, 0.0, "at every length, 1,040 tokens too"),
        ({1040: 0.02, 32_000: 0.14}, 1040 + 30_960 / 3, "from about 11,360 tokens on"),
        ({1040: 0.02, 32_000: 0.1}, None, "prefill is sooner at every length"),
    ],
)
def test_the_length_from_which_restoring_wins_is_interpolated(
    raw: dict[str, Any], prefill_s: dict[int, float], wins: float | None, said: str
) -> None:
    for row in raw["rows"]:
        if row["part"] == "computed":
            row["prefill_s"] = [prefill_s[row["tokens"]]]
    found = import_module("sessions_results").Sessions(raw["rows"]).wins_from("tmpfs")
    assert found == (wins if wins is None else pytest.approx(wins))
    assert said in made(raw)


def test_prefill_and_restoring_are_shown_of_all_lengths(rows: list[dict[str, Any]]) -> None:
    for tokens in (8000, 100_000):
        rows += [computed(32_000) | {"tokens": tokens}, served(tokens, 0.2)]
    assert judged(rows)[COMPUTED]["reached"] is True


def test_nothing_wins_where_prefill_was_not_measured(raw: dict[str, Any]) -> None:
    raw["rows"].append(computed(32_000) | {"shape": "Other-7B"})
    assert "restoring is sooner" in made(raw)
    raw["rows"] = [r for r in raw["rows"] if r["part"] != "computed" or r["shape"] == "Other-7B"]
    assert "sooner" not in made(raw)


def test_the_headline_is_of_what_was_measured(raw: dict[str, Any]) -> None:
    headline = import_module("sessions_page").headline
    raw["machine"]["device"] = "GPU"
    said = headline(raw)
    assert "32,000 tokens of Llama-3.1-8B loads from tmpfs at 41.9 GB/s" in said
    raw["rows"] = [row for row in raw["rows"] if row["part"] != "served"]
    assert headline(raw) == ""
