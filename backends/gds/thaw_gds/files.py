"""Files opened by KvikIO, and its errors in our words."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from thaw import TransferError, format_error

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# KvikIO takes the mode of a file from a setting of the whole process.
_opening = threading.Lock()


class DeviceMemory:
    """A run of device memory as the libraries of CUDA for Python take it."""

    __slots__ = ("__cuda_array_interface__",)

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


class KvikFile:
    """A file that is open already, opened once more by KvikIO.

    It is found by its descriptor: by name there may be another file by now.

    Raises:
        RuntimeError: KvikIO or cuFile cannot open it in this mode.
    """

    def __init__(self, path: Path, fd: int, flags: str, mode: str) -> None:
        import kvikio
        import kvikio.defaults

        self._path, self._fd = path, fd
        with _opening, kvikio.defaults.set({"compat_mode": kvikio.CompatMode[mode]}):
            self._file: Any = kvikio.CuFile(f"/proc/self/fd/{fd}", flags)

    def read(self, address: int, nbytes: int, offset: int) -> None:
        """Fill device memory with the bytes from `offset`; the thread has the device's context."""
        try:
            done = self._file.raw_read(DeviceMemory(address, nbytes), nbytes, offset)
        except (RuntimeError, OSError) as error:
            self.require(offset + nbytes)
            raise self._failed("read", error, offset, nbytes) from error
        if done != nbytes:
            self.require(offset + nbytes)
            raise self._failed("read", f"{done} bytes instead of {nbytes}", offset, nbytes)

    def write(self, address: int, nbytes: int, offset: int) -> None:
        """Write bytes of device memory at `offset`; the thread has the device's context."""
        try:
            done = self._file.raw_write(DeviceMemory(address, nbytes), nbytes, offset)
        except RuntimeError as error:
            self._refuse(str(error), offset + nbytes)
            raise self._failed("write", error, offset, nbytes) from error
        if done != nbytes:
            self._refuse("", offset + nbytes)
            raise self._failed("write", f"{done} bytes instead of {nbytes}", offset, nbytes)

    def _refuse(self, why: str, end: int) -> None:
        """Raise OSError if the disk is full or a limit is reached, which KvikIO may not say."""
        code = next((code for code in _REFUSALS if os.strerror(code) in why), 0)
        if not code:
            try:
                os.pwrite(self._fd, b"\0", end - 1)
            except OSError as error:
                code = error.errno or 0
        if code in _REFUSALS:
            raise OSError(code, os.strerror(code), str(self._path))

    def require(self, end: int) -> None:
        """Raise TruncatedError if the file is shorter than this."""
        size = os.fstat(self._fd).st_size
        if size < end:
            raise format_error(
                "truncated-file",
                f"the file has {size} bytes, expected at least {end}",
                path=self._path,
                offset=size,
            )

    def close(self) -> None:
        self._file.close()

    def _failed(self, what: str, why: object, offset: int, nbytes: int) -> TransferError:
        message = f"KvikIO did not {what}: {why}"
        return TransferError(message, path=self._path, offset=offset, nbytes=nbytes)
