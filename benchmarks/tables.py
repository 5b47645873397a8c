"""Tables of the pages, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def described(facts: Mapping[str, Any]) -> str:
    """List facts by name in a line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def yes(value: bool | None) -> str:
    return {True: "yes", False: "**no**", None: ""}[value]


def seconds(samples: Sequence[float]) -> tuple[str, str]:
    """Return the median and the spread; nothing of what is not there."""
    if not samples:
        return "", ""
    spread = f"{min(samples):.3f} to {max(samples):.3f}" if len(samples) > 1 else ""
    return f"{median(samples):.3f}", spread
