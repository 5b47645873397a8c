"""What tests of sessions ask of engines, and how they compare what came of it."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

LLAMA = {"model": "llama", "worker_extension_cls": "session_faults.Faults"}
Steps: TypeAlias = list[tuple[str, str, dict[str, Any]]]


def prompt(seed: int, tokens: int = 200) -> list[int]:
    """Make a prompt up; those of other seeds have no block in common."""
    return [(seed * 37 + index * 7) % 1000 + 1 for index in range(tokens)]


def again(label: str, seed: int = 1, **options: Any) -> Steps:
    """Forget what is cached, and ask for a prompt."""
    return [
        (f"{label}: reset", "reset", {}),
        (label, "request", {"prompts": [prompt(seed)], **options}),
    ]


def one(answers: Any, label: str) -> Any:
    """Return the only answer of a step."""
    (found,) = answers.value(label)
    return found


def skip_without(answers: Any, label: str) -> None:
    """Skip where a file system could not be mounted."""
    if "no mount allowed" in (why := answers[label].error):
        pytest.skip(why)
    assert not why


def same(found: Any, expected: Any) -> bool:
    """Say whether two answers are the same to the last bit of their logprobs."""
    return bool(found["tokens"] == expected["tokens"] and found["logprobs"] == expected["logprobs"])
