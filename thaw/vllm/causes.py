"""Why a worker ended while its engine started: left in a file by it, raised by who started it.

vLLM says of such a worker no more than that it failed, and to look at what was printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from thaw_format import ThawError

from ..errors import MismatchError

_KNOWN: Mapping[str, type[Exception]] = {
    each.__name__: each for each in (MismatchError, OSError, FileNotFoundError)
}


class LeavingCause:
    """Leave word of what ends a block, if it fails.

    Args:
        folder: where to; nowhere if it is empty, or gone.
        rank: of this worker.
    """

    def __init__(self, folder: str, rank: int) -> None:
        self._folder, self._rank = folder, rank

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and self._folder and Path(self._folder).is_dir():
            said = {"rank": self._rank, "error": kind.__name__, "message": str(error)}
            Path(self._folder, f"{self._rank:05}.json").write_text(json.dumps(said))


class RaisingCause:
    """Raise what ended a worker in place of what vLLM says of it.

    Attributes:
        folder: where workers leave word.

    Raises:
        Exception: what the first of them has left; vLLM's own error is its cause.
    """

    def __init__(self) -> None:
        self._made = TemporaryDirectory(prefix="thaw-")
        self.folder = self._made.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._made:
            left = [json.loads(path.read_text()) for path in sorted(Path(self.folder).iterdir())]
        if left and isinstance(error, Exception) and str(error) != left[0]["message"]:
            first = left[0]
            said = f"rank {first['rank']}: {first['message']} ({error})"
            raise known_error(first["error"], said) from error


def known_error(name: str, message: str) -> Exception:
    """Make an error of the type that a worker had, where others can tell what it means."""
    # Other errors have fields of their own, which stayed with the worker.
    return _KNOWN[name](message) if name in _KNOWN else ThawError(f"{message} ({name})")
