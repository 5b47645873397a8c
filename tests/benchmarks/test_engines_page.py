"""The page of vLLM's engines is made from the raw results alone, and says what is missing."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from typing import Any

import pytest

SHAPE = "Llama-3.1-8B"
NBYTES = 16_000_000_000
MIB = 1 << 20


def compared(name: str, kind: str, **more: Any) -> dict[str, Any]:
    made = {
        "part": "decoding",
        "case": name,
        "kind": kind,
        "engine": {"dtype": "bfloat16"},
        "passed": True,
    }
    made |= {"tokens_equal": True, "logprobs_equal": True, "decoded_tokens": 256}
    return made | {"differences": []} | more


def start(way: str, engine_s: float, weights_s: float | None = None, **more: Any) -> dict[str, Any]:
    made = {"shape": SHAPE, "case": way, "engine_s": engine_s, "load_model_s": engine_s - 5.5}
    made |= {"kept_nbytes": NBYTES, "torch_extra_nbytes": 96 * MIB}
    if weights_s is not None:
        made |= {"weights_s": weights_s, "equal": True}
    return made | more


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    hot = {"shape": SHAPE, "nbytes": NBYTES, "equal": True, "differences": []}
    extra = {"device_nbytes": 300 * MIB, "torch_nbytes": 96 * MIB}
    extra |= {"anonymous_nbytes": 200 * MIB, "machine_nbytes": 250 * MIB}
    plain = {"buffered, 4 x 4 MiB": [4.0, 4.2], "buffered, 16 x 4 MiB": [3.0, 3.8]}
    freeze = {"case": "freeze/tmpfs", "samples_s": [3.3, 3.5], "plain_s": plain, "tensors": 200}
    return [
        start("dummy, first of the process", 19.0),
        start("default, first of the process", 18.0, 3.75),
        {"shape": SHAPE, "nbytes": NBYTES} | freeze,
        start("dummy", 10.0),
        start("default", 14.0, 4.0),
        start("thaw/tmpfs", 10.375, 0.3125),
        start("thaw/page-cache", 10.5, 0.4),
        start("fastsafetensors", 12.0, 2.5),
        {"shape": SHAPE, "case": "instanttensor", "error": "ImportError: no | instanttensor"},
        start("dummy", 10.25),
        start("default", 15.0, 5.0),
        start("thaw/tmpfs", 10.625, 0.34375),
        start("thaw/tmpfs, memory sampled", 11.0, 0.35, sampled_extra=extra),
        start("thaw/tmpfs, before hot restores", 10.75, 0.36),
        hot | {"case": "hot/tmpfs", "samples_s": [0.4, 0.5, 0.6], "moving_s": [0.33, 0.44, 0.55]},
        hot
        | {"case": "hot/pinned", "samples_s": [0.25, 0.28, 0.35], "moving_s": [0.21, 0.23, 0.3]}
        | {"pinning_s": 0.875},
    ]


@pytest.fixture
def raw(rows: list[dict[str, Any]]) -> dict[str, Any]:
    decoding = [compared("llama", "loaded"), compared("gemma2", "processed")]
    machine = {"cpu": "some CPU", "cores": 16}
    versions = {"vllm": "1.2.3", "device": "some GPU"}
    rows = [*decoding, *({"part": "starts"} | row for row in rows)]
    return {"machine": machine, "versions": versions, "rows": rows}


@pytest.fixture
def on_cpu() -> dict[str, Any]:
    two = {"dtype": "float32", "tensor_parallel_size": 2}
    decoding = [compared("llama", "loaded"), compared("llama", "loaded", engine=two)]
    return {"machine": {"cores": 2}, "versions": {"device": "CPU"}, "rows": decoding}


def made(**results: dict[str, Any]) -> str:
    import engines_results
    from engines_page import make

    found = {name: each | {"figures": []} for name, each in results.items()}
    for each in found.values():
        each["figures"] = [asdict(figure) for figure in engines_results.figures(each["rows"])]
    return make({f"{name}.json": each for name, each in found.items()})


def figures(rows: list[dict[str, Any]]) -> dict[str, tuple[str, bool | None]]:
    """Return what the page says of each figure, and whether it is reached."""
    import engines_results
    from pages import found_in_words

    found = engines_results.figures([{"part": "starts"} | row for row in rows])
    return {each.name: (found_in_words(asdict(each)), each.reached) for each in found}


WEIGHTS = f"{SHAPE}, weights from tmpfs"
BEYOND = f"{SHAPE}, `LLM()` beyond dummy weights, snapshot in tmpfs"
HOT = f"{SHAPE}, live engine, restored from pinned memory"
FREEZE = f"{SHAPE}, freeze to tmpfs"
EXTRA = f"{SHAPE}, torch's device memory beyond the weights while they load"


def test_figures_say_what_was_found(rows: list[dict[str, Any]]) -> None:
    found = figures(rows)
    assert found[WEIGHTS] == ("48.8 GB/s", True)
    assert found[f"{SHAPE}, weights from the page cache"] == ("40 GB/s", False)
    assert found[BEYOND] == ("0.375 s", True)
    assert found[HOT] == ("0.28 s", True)
    assert found[FREEZE] == ("1 times the best plain writes", True)
    assert found[EXTRA] == ("96 MiB", True)


@pytest.mark.parametrize(
    ("figure", "way", "change"),
    [
        (WEIGHTS, "thaw/tmpfs", {"weights_s": 0.36}),
        (BEYOND, "thaw/tmpfs", {"engine_s": 10.64}),
        (HOT, "hot/pinned", {"samples_s": [0.2, 0.36, 0.36]}),
        (FREEZE, "freeze/tmpfs", {"samples_s": [3.6, 3.6]}),
        (EXTRA, "thaw/page-cache", {"torch_extra_nbytes": 513 * MIB}),
    ],
)
def test_a_little_worse_is_not_reached(
    rows: list[dict[str, Any]], figure: str, way: str, change: dict[str, Any]
) -> None:
    assert figures(rows)[figure][1] is True
    assert (
        figures([row | change if row["case"] == way else row for row in rows])[figure][1] is False
    )


@pytest.mark.parametrize("figure", [WEIGHTS, BEYOND, HOT, FREEZE, EXTRA])
@pytest.mark.parametrize(
    "change", [{"equal": False}, {"differences": ["'a' differs"]}, {"error": "OSError: no"}]
)
def test_what_is_not_equal_reaches_nothing(
    rows: list[dict[str, Any]], figure: str, change: dict[str, Any]
) -> None:
    changed = [row | change if row["case"].startswith(("thaw/", "hot/")) else row for row in rows]
    found, reached = figures(changed)[figure]
    assert reached is False
    assert found.endswith(" (but not equal)")


def test_what_was_not_measured_is_said(rows: list[dict[str, Any]]) -> None:
    found = figures([row for row in rows if row["case"] == "default"])
    assert len(found) == 7
    assert set(found.values()) == {("not measured", None)}
    assert figures([]) == {}


def test_comparisons_say_where_and_how_they_ended(
    raw: dict[str, Any], on_cpu: dict[str, Any]
) -> None:
    lines = made(engines=raw, engines_cpu=on_cpu).splitlines()
    columns = "CPU, bfloat16, TP=1 | CPU, float32, TP=2 | some GPU, bfloat16, TP=1"
    assert f"| model | kind | {columns} |" in lines
    equal = "equal, 256 tokens"
    assert f"| llama | loaded | {equal} | {equal} | {equal} |" in lines
    assert f"| gemma2 | processed | not run | not run | {equal} |" in lines


@pytest.mark.parametrize(
    ("change", "said", "why"),
    [
        ({"tokens_equal": False, "logprobs_equal": False}, "**other tokens**", None),
        ({"logprobs_equal": False}, "**other logprobs**", None),
        ({"differences": ["rank 0: 'a' differs"]}, "**other tensors**", "rank 0: 'a' differs"),
        ({"error": "thaw: OSError: | no"}, "**failed**", "thaw: OSError: \\| no"),
    ],
)
def test_a_comparison_that_did_not_pass_stands_out(
    raw: dict[str, Any], change: dict[str, Any], said: str, why: str | None
) -> None:
    # Made again, and the second time it passed.
    raw["rows"].insert(0, compared("llama", "loaded") | {"passed": False} | change)
    lines = made(engines=raw).splitlines()
    assert f"| llama | loaded | {said} |" in lines
    assert (f"- llama, loaded, some GPU, bfloat16, TP=1: {why}" in lines) == bool(why)


def test_ways_are_beside_each_other_with_medians_of_their_repeats(raw: dict[str, Any]) -> None:
    page = made(engines=raw)
    for line in (
        f"| {SHAPE} | 16.00 | 4.500 | 0.328 | 13.7 | 48.8 | 4.38 | 0.38 |",
        "| `dummy` | 2 |  |  | 4.625 | 10.125 | 10.000 to 10.250 |  | 96 |  |",
        "| `default` | 2 | 4.500 | 3.6 | 9.000 | 14.500 | 14.000 to 15.000 | 4.38 | 96 | yes |",
        "| `fastsafetensors` | 1 | 2.500 | 6.4 | 6.500 | 12.000 |  | 1.88 | 96 | yes |",
        "| `instanttensor` | 0 |  |  |  |  |  |  |  | **failed** |",
        "- `instanttensor` failed: ImportError: no \\| instanttensor",
        "| tmpfs | 3 | 0.500 | 0.400 to 0.600 | 0.440 | 32.0 |  | yes |",
        "| pinned | 3 | 0.280 | 0.250 to 0.350 | 0.230 | 57.1 | 0.88 | yes |",
        "| thaw | 2 | 3.400 | 3.300 to 3.500 | 4.71 |",
        "| buffered, 16 x 4 MiB | 2 | 3.400 | 3.000 to 3.800 | 4.71 |",
        "| `thaw/tmpfs, memory sampled` | 300 | 96 | 200 | 250 |",
    ):
        assert line in page.splitlines(), page


def test_every_measured_number_of_the_page_comes_from_the_results(raw: dict[str, Any]) -> None:
    """Change every number of the results: no number of the tables stays, but the figures asked."""
    # Several of all, so that there are spreads and numbers of samples to change.
    raw["rows"] = 2 * [row for row in raw["rows"] if "error" not in row]
    other = copy.deepcopy(raw)
    starts = [row for row in raw["rows"] if row["part"] == "starts"]
    other["rows"] += copy.deepcopy([r for r in starts if "sampled_extra" not in r])
    for index, row in enumerate(other["rows"]):
        for key, value in row.items():
            factor = 1.7 + 0.09 * index
            if isinstance(value, float):
                row[key] = value * factor + 0.013
            elif key in ("samples_s", "moving_s"):
                row[key] = [each * factor for each in value]
        if "plain_s" in row:
            row["plain_s"] = {way: [9.1, 9.4, 9.9] for way in row["plain_s"]}
        for key in ("nbytes", "torch_extra_nbytes"):
            if key in row:
                row[key] += 3_000_000_000
        if "sampled_extra" in row:
            row["sampled_extra"] = {k: v + 77 * MIB for k, v in row["sampled_extra"].items()}
        if row["part"] == "decoding":
            row["decoded_tokens"] += 1
    other["machine"]["cores"] = 15
    other["versions"]["vllm"] = "9.8.7"
    page, changed = (tables(made(engines=each)) for each in (raw, other))
    assert len(page) == len(changed) > 60
    assert [(a, b) for a, b in zip(page, changed, strict=True) if a == b] == [], page


def tables(page: str) -> list[str]:
    asked = re.compile(
        rf"at (least|most) [\d.]+|\| comparisons .*|{SHAPE}|buffered, \d+ x \d MiB|"
        r"TP=\d|bfloat16|gemma2"
    )
    shown = [line for line in page.splitlines() if line.startswith(("| ", "- "))]
    return re.findall(r"\d[\d.,]*", asked.sub("", "\n".join(shown)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"found": {"loaded": True}, "tokens": 256}, "| loaded | 256 | yes |"),
        ({"found": {"loaded": False}, "tokens": 256}, "| loaded | 256 | **no** |"),
        ({"error": "default: no | memory"}, "|  |  | **failed**: default: no \\| memory |"),
    ],
)
def test_modes_say_what_was_as_it_must_be(
    raw: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    mode = {"part": "modes", "case": "graphs", "engine": {"enforce_eager": False}}
    mode |= {"passed": True} | change
    page = made(engines=raw, engine_modes=raw | {"rows": [mode]})
    assert f'| graphs | `{{"enforce_eager": false}}` {said}' in page


def test_shapes_come_from_every_file_that_has_some(raw: dict[str, Any]) -> None:
    others = [r | {"shape": "Other-7B"} for r in raw["rows"] if r["part"] == "starts"]
    page = made(engine_figures=raw, engine_figures_more=raw | {"rows": others})
    assert f"### {SHAPE}" in page
    assert "### Other-7B" in page
