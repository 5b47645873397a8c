"""What a process of the benchmark is asked to measure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

PROBE = "probe"
FIRST = "restore first"
AGAIN = "restore again"
INTO = "restore into"
COLD = "restore cold"
PIN = "pin"
PINNED = "restore pinned"
FREEZE = "freeze"
OPERATIONS = (FIRST, AGAIN, INTO, PIN, PINNED, FREEZE, COLD)


@dataclass(frozen=True, slots=True)
class Task:
    """A snapshot, a backend and a device, and how often to do what.

    Attributes:
        folder: where freezes write their files.
        operations: what follows the first restore, in this order.
    """

    path: str
    backend: str
    device: str
    folder: str
    repeat: int = 3
    rank: int | None = None
    operations: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Undo `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "operations": tuple(values["operations"])})


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of an operation: how it went, or why it did not.

    Attributes:
        began: it has only begun.
        identical: whether the bytes are those that the reference backend restores; None where no
            bytes were to be compared.
    """

    operation: str
    elapsed_s: float = 0.0
    nbytes: int = 0
    route: str = ""
    identical: bool | None = None
    error: str | None = None
    began: bool = False
