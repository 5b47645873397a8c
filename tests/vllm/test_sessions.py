"""Sessions of real engines: frozen in one process, hits in another, and faults on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 400
BLOCK = 32
FAULTS = {"worker_extension_cls": "session_faults.Faults"}
LLAMA = {"model": "llama", **FAULTS}


def prompt(seed: int, tokens: int = 200) -> list[int]:
    """Make a prompt up; those of other seeds have no block in common."""
    return [(seed * 37 + index * 7) % 1000 + 1 for index in range(tokens)]


ALICE, MORE = prompt(1), [*prompt(1), 5, 6, 7]
MADE = range(10, 14)
Steps = list[tuple[str, str, dict[str, Any]]]


def session(name: str) -> str:
    return f"sessions/{name}.thaw"


def _again(label: str, *, seed: int = 1, **options: Any) -> Steps:
    """Forget what is cached, and ask for a prompt."""
    return [
        (f"{label}: reset", "reset", {}),
        (label, "request", {"prompts": [prompt(seed)], **options}),
    ]


FREEZING: Steps = [
    ("llama", "save", {"name": "llama"}),
    ("one bit", "one_bit", {"model": "llama", "path": "other"}),
    ("apart", "multiprocessing", {"on": True}),
    ("first", "serve_sessions", LLAMA),
    ("cold", "request", {"prompts": [ALICE]}),
    ("hit", "request_in_turn", {"prompts": [ALICE, MORE]}),
    ("frozen", "freeze_prompt", {"prompt": ALICE, "path": session("alice")}),
    ("bob", "request", {"prompts": [prompt(2)], "asked": {"freeze": "bob"}}),
    ("answer", "freeze_answer", {"prompt": prompt(3, 100), "path": session("carol")}),
    ("salted", "request", {"prompts": [prompt(6)], "salt": "s", "asked": {"freeze": "salted"}}),
    *(
        (f"made {seed}", "request", {"prompts": [prompt(seed)], "asked": {"freeze": f"s{seed}"}})
        for seed in MADE
    ),
    ("slow", "meet", {"verb": "slow freezes", "argument": 1.0}),
    ("slowly", "freeze_prompt", {"prompt": prompt(20), "path": session("slow")}),
    ("fast", "meet", {"verb": "nothing"}),
    ("settled", "settle", {}),
    ("shown", "show", {}),
    ("counted", "counted", {}),
    ("first stopped", "stop", {}),
]
RESTORING: Steps = [
    ("second", "serve_sessions", LLAMA),
    ("loaded", "request_in_turn", {"prompts": [MORE]}),
    ("loaded again", "request", {"prompts": [prompt(2)]}),
    ("restored", "restore_file", {"path": session("carol")}),
    ("unsalted", "request", {"prompts": [prompt(6)]}),
    ("salted too", "request", {"prompts": [prompt(6)], "salt": "s"}),
    ("other salt", "request", {"prompts": [prompt(6)], "salt": "t"}),
    ("counted loads", "counted", {}),
    *_again("eight: first"),
    ("eight: reset", "reset", {}),
    ("eight: slow", "meet", {"verb": "slow loads", "argument": 0.3}),
    ("eight", "request", {"prompts": [[*ALICE, index] for index in range(8)]}),
    ("eight: counted", "counted", {}),
    ("eight: done", "meet", {"verb": "nothing"}),
    ("with logprobs", "request", {"prompts": [prompt(12)], "prompt_logprobs": 1}),
    ("damage", "damage", {"path": session("s10")}),
    *_again("damaged", seed=10, asked={"freeze": "s10"}),
    ("mended: settled", "settle", {}),
    *_again("mended", seed=10),
    ("cut", "cut", {"path": session("s11")}),
    *_again("truncated", seed=11),
    ("going", "meet", {"verb": "gone", "argument": session("s12")}),
    *_again("gone", seed=12),
    ("oddly", "meet", {"verb": "odd"}),
    *_again("odd", seed=13),
    ("filling", "meet", {"verb": "full", "argument": "sessions"}),
    ("full", "request", {"prompts": [prompt(30)], "asked": {"freeze": "full"}}),
    ("full by hand", "freeze_prompt", {"prompt": prompt(30), "path": session("full")}),
    ("emptied", "meet", {"verb": "nothing"}),
    ("counted faults", "counted", {}),
    ("reloaded", "reload", {"path": "other"}),
    ("old in memory", "freeze_prompt", {"prompt": prompt(13), "path": session("old")}),
    *_again("other weights"),
    ("other weights by hand", "restore_file", {"path": session("alice")}),
    ("other weights alone", "request", {"prompts": [prompt(1)], "asked": {"skip": True}}),
    ("reloaded again", "reload", {"path": "llama"}),
    *_again("its weights again"),
    ("counted swaps", "counted", {}),
    ("killing", "meet", {"verb": "killed"}),
    ("killed", "freeze_prompt", {"prompt": prompt(40), "path": session("killed")}),
    ("second stopped", "stop", {}),
    ("left", "listed", {}),
    ("shown after", "show", {}),
]
CHANGED: Steps = [
    ("third", "serve_sessions", {**LLAMA, "model": "other"}),
    ("one bit alone", "request", {"prompts": [ALICE], "asked": {"skip": True}}),
    *_again("one bit refused"),
    ("one bit frozen", "freeze_prompt", {"prompt": prompt(40), "path": session("killed")}),
    ("left after", "listed", {}),
    ("third stopped", "stop", {}),
    ("fourth", "serve_sessions", {**LLAMA, "block_size": 64}),
    ("other blocks", "request", {"prompts": [ALICE]}),
    ("other blocks counted", "counted", {}),
    ("fourth stopped", "stop", {}),
    ("plain", "start", LLAMA),
    ("plain asked", "request", {"prompts": [ALICE]}),
    ("plain stopped", "stop", {}),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("sessions", [*FREEZING, *RESTORING, *CHANGED], limit_s=LIMIT_S)
