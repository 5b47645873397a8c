"""Errors of the format: what is wrong, where, and which rule says so."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class ThawError(Exception):
    """Base of every error that thaw raises on purpose; any of them may cross processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default the class would be called again, with the message for its only argument.
        state = self.__dict__.copy()
        if "__notes__" in state:
            state["__notes__"] = list(state["__notes__"])
        return copyreg.__newobj__, (type(self), *self.args), state  # type: ignore[attr-defined]


class FormatError(ThawError, ValueError):
    """A file is not what its format demands.

    `code` and `rule` are those of the format's specification, `offset` is a byte offset in the
    file where one can be named.
    """

    family: ClassVar[str] = "format"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        rule: str | None = None,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.rule = message, code, rule
        self.path = None if path is None else os.fspath(path)
        self.offset = offset

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        why = f" [{self.code}, {self.rule}]" if self.rule else f" [{self.code}]"
        return f"{where}{self.message}{why}"


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a path into the errors of a block that do not name one."""
    try:
        yield
    except FormatError as error:
        error.path = error.path or os.fspath(path)
        raise


class MagicError(FormatError):
    """The file is of another format."""

    family = "magic"


class VersionError(FormatError):
    """The file is of a version that this reader does not know."""

    family = "version"


class FeatureError(FormatError):
    """The file needs a feature that this reader does not know."""

    family = "feature"


class TruncatedError(FormatError):
    """The file ends too early."""

    family = "truncated"


class ManifestError(FormatError):
    """The description of the tensors is malformed."""

    family = "manifest"


class LayoutError(FormatError):
    """Sizes or offsets contradict each other."""

    family = "layout"


class ChecksumError(FormatError):
    """Bytes differ from those that were written."""

    family = "checksum"
