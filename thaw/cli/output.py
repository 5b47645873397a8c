"""Results on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

Progress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Output:
    """How a command tells what it does and did."""

    as_json: bool = False
    quiet: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether someone watches standard error."""
        watched = sys.stderr is not None and sys.stderr.isatty()
        return watched and not (self.as_json or self.quiet)

    @contextmanager
    def progress(self, what: str, total: Callable[[], int | None]) -> Iterator[Progress | None]:
        """Show bytes as they move, if standard error is a terminal; `total` is asked only then."""
        if not self.shows_progress:
            yield None
            return
        expected = total()
        if expected == 0:
            yield None
            return
        from .progress import progress_bar

        with progress_bar(what, expected) as advance:
            yield advance

    def warn(self, message: str) -> None:
        """Say something on standard error that is no error."""
        if not self.quiet and sys.stderr is not None:
            print(f"warning: {message}", file=sys.stderr)

    def emit(
        self,
        document: Mapping[str, object] | Sequence[Mapping[str, object]],
        show: Callable[[Console], None],
    ) -> None:
        """Print a result as JSON, or as people like it."""
        if self.as_json:
            print(json.dumps(document))
        elif not self.quiet:
            from .drawing import standard_output

            show(standard_output())
