"""The file of one rank among many: a process cannot have all of them open."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TypeAlias

from .checksum import HostBuffer
from .source import FileSource
from .superblock import SUPERBLOCK_NBYTES

_Version: TypeAlias = tuple[int, int, int, bytes]


class RankSource(FileSource):
    """A file that can be set aside: it is closed, and opened again when it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._set_aside: _Version | None = None
        self._opening = Lock()

    def set_aside(self) -> None:
        """Close the file until it is read; only the same file is read again (rule CON-4)."""
        version = _version(self)
        super().close()
        self._set_aside = version

    def fileno(self) -> int:
        """Return a descriptor; from now on the file stays open."""
        with self._opening:
            if (version := self._set_aside) is not None:
                with self._again(version) as source:
                    self._fd, self._set_aside = os.dup(source.fileno()), None
        return super().fileno()

    def read(self, offset: int, nbytes: int) -> bytes:
        if (version := self._set_aside) is None:
            return super().read(offset, nbytes)
        with self._again(version) as source:
            return source.read(offset, nbytes)

    def read_into(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        if (version := self._set_aside) is None:
            super().read_into(offset, buffers)
            return
        with self._again(version) as source:
            source.read_into(offset, buffers)

    def close(self) -> None:
        self._set_aside = None
        super().close()

    @contextmanager
    def _again(self, version: _Version) -> Iterator[FileSource]:
        source = FileSource(self.path)
        try:
            if _version(source) != version:
                raise OSError(
                    errno.ESTALE, "is another file than when it was opened", os.fspath(self.path)
                )
            yield source
        finally:
            source.close()


def _version(source: FileSource) -> _Version:
    status = os.fstat(source.fileno())
    head = hashlib.sha256(source.read(0, SUPERBLOCK_NBYTES)).digest()
    return status.st_dev, status.st_ino, status.st_size, head
