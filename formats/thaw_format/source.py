"""Where bytes are read from and written to."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from .checksum import HostBuffer
from .codes import format_error
from .errors import FormatError

_MAX_BUFFERS = 512
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@runtime_checkable
class Source(Protocol):
    """Bytes that can be read from any offset, by several threads at once.

    What more it can do, it shows by the protocols below, which a backend may ask for.
    """

    @property
    def path(self) -> Path:
        """What errors name."""
        ...

    @property
    def nbytes(self) -> int: ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return bytes; fewer only at the end."""
        ...

    def read_into(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        """Fill the buffers in order with the bytes from `offset`, or raise."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class HasDescriptor(Protocol):
    """A source or target that is a file, open in this process."""

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ValueError: it is closed.
        """
        ...


@runtime_checkable
class HasLockedPages(Protocol):
    """A source that lies, as a whole, in page-locked memory."""

    def locked_address(self) -> int:
        """Return where its first byte is.

        Raises:
            ValueError: it is released.
        """
        ...


class Target(Protocol):
    """A place that bytes can be written to at any offset, by several threads at once."""

    @property
    def path(self) -> Path: ...

    def write_from(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        """Write the buffers in order from `offset`, or raise."""
        ...


class FileSource:
    """A regular file, kept open: a file that replaces it by name does not change what is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1
        self.path = Path(path)
        # O_NONBLOCK: opening a pipe would otherwise wait for its writer.
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise not_a_file(self.path, status.st_mode)
        self.nbytes = status.st_size
        _leave_access_time(self._fd)

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ValueError: the source is closed; its number may be that of another file by now.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path} was closed; open it again to read from it")
        return self._fd

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read bytes; fewer only at the end of the file."""
        left = min(nbytes, max(0, self.nbytes - offset))
        data = os.pread(self.fileno(), left, offset)
        if len(data) == left or not data:
            return data
        # Network file systems and FUSE may return less than there is.
        pieces = [data]
        while data and (left := left - len(data)):
            offset += len(data)
            data = os.pread(self.fileno(), left, offset)
            pieces.append(data)
        return b"".join(pieces)

    def read_into(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        for start in range(0, len(buffers), _MAX_BUFFERS):
            offset = self._read_run(offset, list(buffers[start : start + _MAX_BUFFERS]))

    def _read_run(self, offset: int, pending: list[HostBuffer]) -> int:
        while pending:
            done = os.preadv(self.fileno(), pending, offset)
            if not done and any(len(buffer) for buffer in pending):
                raise format_error(
                    "truncated-file",
                    "the file ended while it was read",
                    path=self.path,
                    offset=offset,
                )
            offset += done
            pending = remaining(pending, done)
        return offset

    def close(self) -> None:
        """Close the file; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class FileTarget:
    """A file open for writing."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd

    def fileno(self) -> int:
        return self._fd

    def write_from(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        began = offset
        for start in range(0, len(buffers), _MAX_BUFFERS):
            pending = list(buffers[start : start + _MAX_BUFFERS])
            while pending:
                done = os.pwritev(self._fd, pending, offset)
                offset += done
                pending = remaining(pending, done)
        _start_writeback(self._fd, began, offset - began)


_WRITEBACK_NBYTES = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _start_writeback(fd: int, offset: int, nbytes: int) -> None:
    # A hint: the fsync before sealing then waits for little, since the device worked meanwhile.
    # Small writes are left to the kernel, which joins them.
    if _sync_file_range is not None and nbytes >= _WRITEBACK_NBYTES:
        _sync_file_range(fd, offset, nbytes, _SYNC_FILE_RANGE_WRITE)


def remaining(buffers: list[HostBuffer], done: int) -> list[HostBuffer]:
    """Return what is left of the buffers after `done` bytes; empty ones are dropped."""
    left = []
    for buffer in buffers:
        nbytes = len(buffer)
        if done >= nbytes:
            done -= nbytes
            continue
        left.append(window(buffer, done, nbytes - done) if done else buffer)
        done = 0
    return left


def window(buffer: HostBuffer, start: int, nbytes: int) -> HostBuffer:
    """View a part of a buffer, keeping the whole alive."""
    part = (ctypes.c_ubyte * nbytes).from_address(ctypes.addressof(buffer) + start)
    part._owner = buffer  # type: ignore[attr-defined]
    return part


def _leave_access_time(fd: int) -> None:
    """Let reads leave a file's access time alone, which says when it was used: owners may."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NOATIME)


def not_a_file(path: str | os.PathLike[str], mode: int) -> FormatError:
    """Build the error for a path that is something else than a regular file."""
    what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    return format_error("not-a-file", f"is {what}, not a file", path=path)
