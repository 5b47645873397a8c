"""Sessions of many models and modes: frozen in one process, served in another, to the last bit.

Every run takes a model of each kind of cache; the matrix takes the others, and other modes.
What the matrix found is written to `session_models.json` beside pytest's temporary folders, and
committed as such to `benchmarks/results/`, a file for each release of vLLM.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from session_cases import WINDOW, connector, prompt

import thaw

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 1200
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FULL, SLIDING, STATE = "full", "sliding-window", "state"
LONG, SHORT, COMMON = 304, 64, 192
Steps = list[tuple[str, str, dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model in a mode.

    Attributes:
        groups: the kinds of its groups of layers, in any order.
        block_tokens: of the engine, so that a prefix ends where its blocks do.
        apart: whether the engine's core has a process of its own.
    """

    model: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[str] = (FULL,)
    block_tokens: int = 32
    apart: bool = False

    @property
    def prompts(self) -> list[list[int]]:
        """One longer than a window, and one shorter."""
        # With a token behind the last whole block, the reference kernel of MLA serves it too.
        return [prompt(1, self.whole(LONG) + 1), prompt(2, self.whole(SHORT) + 1)]

    @property
    def branch(self) -> list[int]:
        """A prompt that begins like the long one."""
        return prompt(1, COMMON) + prompt(3, 1 if self.model == "latent" else 70)

    def whole(self, tokens: int) -> int:
        return tokens // self.block_tokens * self.block_tokens


TWO = {"tensor_parallel_size": 2}
IN_PARTS = {"max_num_batched_tokens": 64, "enable_chunked_prefill": True}
ONE_KIND = {"disable_hybrid_kv_cache_manager": True}
EIGHT_BITS = {"kv_cache_dtype": "fp8"}
GEMMA3 = (SLIDING, SLIDING, SLIDING, FULL)
ALWAYS = {
    "grouped": Case(model="grouped"),
    "gemma3": Case(model="gemma3", groups=GEMMA3),
    "latent": Case(model="latent", block_tokens=16),
    "qwen3-next": Case(model="qwen3-next", groups=(STATE, FULL)),
}
HERE = {
    "multi-head": Case(model="multi-head"),
    "qwen3": Case(model="qwen3"),
    "gemma2": Case(model="gemma2", groups=(SLIDING, FULL)),
    "windows alone": Case(model="windows-alone", groups=(SLIDING,)),
    "gpt-oss": Case(model="gpt-oss", groups=(SLIDING, FULL)),
    "shared caches": Case(model="shared-caches", groups=(SLIDING, FULL, FULL)),
    "float32": Case(model="grouped", engine={"dtype": "float32"}),
    "fp8 cache": Case(model="grouped", engine=EIGHT_BITS),
    "gemma3, fp8 cache": Case(model="gemma3", engine=EIGHT_BITS, groups=GEMMA3),
    "prefill in parts": Case(model="grouped", engine=IN_PARTS),
    "gemma3, prefill in parts": Case(model="gemma3", engine=IN_PARTS, groups=GEMMA3),
    "gemma3, one kind of groups": Case(model="gemma3", engine=ONE_KIND),
    "chunks, one kind of groups": Case(model="chunked-local", engine=ONE_KIND),
}
APART = {
    "apart": Case(model="grouped", apart=True),
    "gemma3, apart": Case(model="gemma3", groups=GEMMA3, apart=True),
    "two ranks": Case(model="grouped", engine=TWO, apart=True),
    "gemma3, two ranks": Case(model="gemma3", engine=TWO, groups=GEMMA3, apart=True),
}
REFUSED = {
    "chunked-local": "which vLLM calls ChunkedLocalAttentionSpec",
}


def engine(name: str, case: Case, folder: Path | str = "") -> dict[str, Any]:
    """Say how the engine of a case is started, with sessions in a folder of its own."""
    return {
        "model": str(Path(folder, case.model)),
        "kv_transfer_config": connector(str(Path(folder, f"{name} sessions"))),
        "max_model_len": 512,
        "enable_prefix_caching": True,
        **case.engine,
    }


def begin(cases: Mapping[str, Case]) -> Steps:
    apart = any(case.apart for case in cases.values())
    return [("mode", "multiprocessing", {"on": apart}), ("kept", "keep_prefix_caching", {})]


def freezing(cases: Mapping[str, Case]) -> Steps:
    """Answer without a cache, with one, and freeze; the last is frozen outside of the folder."""
    steps = begin(cases)
    for name, case in cases.items():
        asked = {"prompts": case.prompts}
        long, short = (each[:-1] for each in case.prompts)
        steps += [
            (f"{name}: saved", "save_for_sessions", {"name": case.model}),
            (f"{name}: started", "start", engine(name, case)),
            (f"{name}: branch, cold", "ask", {"prompts": [case.branch]}),
            (f"{name}: forgotten", "forget", {}),
            (f"{name}: cold", "ask", asked),
            (f"{name}: hit", "ask", asked),
            (f"{name}: branch, hit", "ask", {"prompts": [case.branch]}),
            (f"{name}: hybrid", "hybrid", {}),
            *(
                (
                    f"{name}: frozen {path.rsplit('/', 1)[1]}",
                    "freeze_session",
                    {"prompt": tokens, "path": path},
                )
                for path, tokens in (
                    (f"{name} sessions/long.thaw", long),
                    (f"{name} sessions/short.thaw", short),
                    (f"{name} elsewhere/other.thaw", long),
                )
            ),
            (f"{name}: stopped", "stop", {}),
        ]
    return steps


def serving(cases: Mapping[str, Case], folder: Path) -> Steps:
    """Serve from sessions: a part of one, all on demand and ahead, and when one is damaged."""
    steps = begin(cases)
    for name, case in cases.items():
        asked = {"prompts": case.prompts}
        long = str(folder / f"{name} sessions" / "long.thaw")
        other = str(folder / f"{name} elsewhere" / "other.thaw")
        damaged = {"source": other, "path": long}
        if "tensor_parallel_size" in case.engine:
            damaged |= {"file": "rank-00001-of-00002.thaw"}
        steps += [
            (f"{name}: started", "start", engine(name, case, folder)),
            (f"{name}: branch", "ask", {"prompts": [case.branch]}),
            (f"{name}: behind it", "ask", asked),
            (f"{name}: forgotten", "forget", {}),
            (f"{name}: served", "ask", asked),
            (f"{name}: forgotten again", "forget", {}),
            (f"{name}: restored", "restore_session", {"path": other}),
            (f"{name}: after it", "ask", asked),
            (f"{name}: damaged", "damage_session", damaged),
            (f"{name}: forgotten at last", "forget", {}),
            (f"{name}: in spite of it", "ask", asked),
            (f"{name}: stopped", "stop", {}),
        ]
    return steps


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process answered that froze, and one that served from what it froze."""

    frozen: Any
    served: Any

    def session(self, name: str, which: str) -> Mapping[str, Any]:
        """Read what a session says of itself, of its first rank."""
        path = self.frozen.folder / f"{name} sessions" / f"{which}.thaw"
        rank = 0 if path.is_dir() else None
        with thaw.open(path, rank=rank) as snapshot:
            found: Mapping[str, Any] = snapshot.metadata["session"]
            return found


def run(run_engines: Callable[..., Any], name: str, cases: Mapping[str, Case]) -> Ran:
    frozen = run_engines(f"freezing-{name}", freezing(cases), limit_s=LIMIT_S)
    steps = serving(cases, frozen.folder)
    return Ran(frozen, run_engines(f"serving-{name}", steps, limit_s=LIMIT_S))


def same_bits(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> bool:
    return [(each["tokens"], each["logprobs"]) for each in found] == [
        (each["tokens"], each["logprobs"]) for each in expected
    ]


def cached(answers: Sequence[Mapping[str, Any]]) -> list[int]:
    return [each["cached"] for each in answers]


def check(ran: Ran, name: str, case: Case) -> None:
    hit, cold = ran.frozen.value(f"{name}: hit"), ran.frozen.value(f"{name}: cold")
    whole = [len(each) - 1 for each in case.prompts]
    # Else what follows would show nothing.
    assert cached(hit) == whole
    assert not same_bits(hit[:1], hit[1:])
    check_file(ran, name, case)
    for way in ("behind it", "served", "after it"):
        found = ran.served.value(f"{name}: {way}")
        assert cached(found) == whole, (way, found)
        assert same_bits(found, hit), way
    check_branch(ran, name, case)
    check_damage(ran, name, cold, hit)


def check_file(ran: Ran, name: str, case: Case) -> None:
    """See that there are the groups that vLLM makes when its hybrid manager is on."""
    assert ran.frozen.value(f"{name}: hybrid") == (
        "disable_hybrid_kv_cache_manager" not in case.engine
    )
    long, short = (ran.session(name, which) for which in ("long", "short"))
    assert sorted(each["kind"] for each in long["groups"]) == sorted(case.groups)
    for said in (long, short):
        for each in said["groups"]:
            assert each["window"] == (WINDOW if each["kind"] == SLIDING else None)
    for each in (each for each in long["groups"] if each["kind"] == SLIDING):
        assert each["first_block"] > 0
        assert each["blocks"] * each["block_tokens"] >= WINDOW - 1
    for each in short["groups"]:
        last = SHORT // each["block_tokens"] - 1
        assert each["first_block"] == (last if each["kind"] == STATE else 0)
    assert all(each["blocks"] == 1 for each in long["groups"] if each["kind"] == STATE)


def check_branch(ran: Ran, name: str, case: Case) -> None:
    """See what shares only a beginning: its window, or state, is gone by the session's end."""
    (found,) = ran.served.value(f"{name}: branch")
    (hit,) = ran.frozen.value(f"{name}: branch, hit")
    (cold,) = ran.frozen.value(f"{name}: branch, cold")
    gone = {
        SLIDING: f"of its sliding window of {WINDOW} tokens there is only the end",
        STATE: f"its first state is of {case.whole(LONG)} tokens",
    }
    if said := [each for kind, each in gone.items() if kind in case.groups]:
        assert found["cached"] == 0
        assert same_bits([found], [cold])
        assert said[0] in found["said"]["missed"]
    else:
        assert found["cached"] == hit["cached"] == COMMON
        assert same_bits([found], [hit])


def check_damage(ran: Ran, name: str, cold: Any, hit: Any) -> None:
    """See that a damaged session costs time, no token, and not the engine."""
    long, short = ran.served.value(f"{name}: in spite of it")
    assert long["cached"] == 0
    assert same_bits([long], cold[:1])
    assert "a chunk's CRC32C is" in long["said"]["missed"]
    assert short["cached"] == hit[1]["cached"]
    assert same_bits([short], hit[1:])


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Check a case, and note how that ended."""
    rows: list[dict[str, Any]] = []

    def checking(ran: Ran, name: str, case: Case) -> None:
        if "MLA is not supported on CPU" in ran.frozen[f"{name}: started"].error:
            pytest.skip("this vLLM has no MLA on a CPU")
        row = {"name": name, "model": case.model, "engine": {**case.engine}, "passed": False}
        rows.append(row)
        check(ran, name, case)
        cached_tokens = cached(ran.served.value(f"{name}: served"))
        groups = [each["kind"] for each in ran.session(name, "long")["groups"]]
        row |= {"groups": groups, "cached_tokens": cached_tokens, "passed": True}

    yield checking
    if rows:
        sys.path.insert(0, str(BENCHMARKS))
        from engines import Results

        path = tmp_path_factory.getbasetemp() / "session_models.json"
        Results(path, torch.device("cpu"), None).add("session models", rows)


@pytest.fixture(scope="session")
def always(run_engines: Callable[..., Any]) -> Ran:
    return run(run_engines, "always", ALWAYS)


@pytest.mark.parametrize("name", ALWAYS)
def test_a_session_serves_what_a_prefix_hit_does(
    judge: Callable[..., None], always: Ran, name: str
) -> None:
    judge(always, name, ALWAYS[name])


@pytest.fixture(scope="session")
def here(run_engines: Callable[..., Any]) -> Ran:
    return run(run_engines, "here", HERE)


@pytest.fixture(scope="session")
def apart(run_engines: Callable[..., Any]) -> Ran:
    return run(run_engines, "apart", APART)


@pytest.mark.matrix
@pytest.mark.parametrize("name", HERE)
def test_sessions_of_other_models_and_modes_do_so_too(
    judge: Callable[..., None], here: Ran, name: str
) -> None:
    judge(here, name, HERE[name])


@pytest.mark.matrix
@pytest.mark.parametrize("name", APART)
def test_sessions_of_engines_in_processes_of_their_own_do_so_too(
    judge: Callable[..., None], apart: Ran, name: str
) -> None:
    judge(apart, name, APART[name])


@pytest.fixture(scope="session")
def refused(run_engines: Callable[..., Any]) -> Any:
    steps: Steps = [("here", "multiprocessing", {"on": False})]
    for name in REFUSED:
        steps += [
            (f"{name}: saved", "save_for_sessions", {"name": name}),
            (name, "start", engine(name, Case(model=name))),
        ]
    steps += [
        ("saved", "save_for_sessions", {"name": "grouped"}),
        ("after them", "start", engine("grouped", ALWAYS["grouped"])),
        ("asked", "ask", {"prompts": [prompt(1, 40)]}),
        ("stopped", "stop", {}),
    ]
    return run_engines("refused-models", steps, limit_s=LIMIT_S)


@pytest.mark.matrix
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_session_can_hold_is_refused_by_name(refused: Any, name: str) -> None:
    assert "MismatchError: a session cannot hold the state of" in refused[name].error
    assert REFUSED[name] in refused[name].error


@pytest.mark.matrix
def test_the_next_engine_of_the_process_starts(refused: Any) -> None:
    assert refused.value("asked")[0]["cached"] == 0
