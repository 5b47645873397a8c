"""Names of before, which go on for a release."""

from __future__ import annotations

import warnings
from typing import Any


def renamed(before: str, now: str) -> Any:
    """Return a property that is another one under the name it had before, and warns of it."""

    def get(owner: object) -> Any:
        warnings.warn(f"{before} is called {now} now", DeprecationWarning, stacklevel=2)
        return getattr(owner, now)

    return property(get)
