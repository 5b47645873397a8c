"""Errors beside those of the format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from thaw_format import ThawError

_LISTED = 5


class MismatchError(ThawError):
    """The file is fine, but the target is not what it was frozen from.

    Attributes:
        differences: one line each, all of them; the message shows the first few.
    """

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)

    @classmethod
    def of(cls, what: str, differences: Sequence[str], hint: str = "") -> MismatchError:
        """Summarize differences in one line."""
        shown = "; ".join(differences[:_LISTED])
        more = f"; and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
        return cls(f"{what}: {shown}{more}{hint}", differences)


class BackendError(ThawError):
    """A backend cannot do what was asked."""


class UnknownBackendError(BackendError):
    """No backend has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known))
        super().__init__(f"there is no backend {name!r}; known here: {listed}")
        self.name = name


class UnavailableBackendError(BackendError):
    """The backend cannot serve this device here."""

    def __init__(self, name: str, device: object, reason: str) -> None:
        super().__init__(
            f"backend {name!r} cannot serve device {device}: {reason} (see `thaw backends`)"
        )
        self.name, self.reason = name, reason


class TransferError(BackendError):
    """Bytes could not be moved; `path`, `offset` and `nbytes` say which."""

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int,
        nbytes: int,
    ) -> None:
        super().__init__(message)
        self.message = f"{message} (bytes {offset} to {offset + nbytes} of the file)"
        self.path = None if path is None else os.fspath(path)
        self.offset, self.nbytes = offset, nbytes

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        return f"{where}{self.message}"
