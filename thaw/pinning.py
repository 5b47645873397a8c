"""Pin: lock the pages of a snapshot's files once, and restore from there again and again."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from thaw_format import FileSource, Snapshot, Source
from thaw_format.checksum import HostBuffer
from torch import nn

from .backend import Backend, Progress
from .errors import BackendError, UnavailableBackendError
from .reports import Restored
from .restoring import restore
from .selection import open_snapshot

_POPULATE_READ = 22  # MADV_POPULATE_READ, which Python does not name
_PORTABLE_AND_READ_ONLY = 0x01 | 0x08
_POPULATE_NBYTES = 64 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


def pin(
    path: str | os.PathLike[str] | Snapshot,
    *,
    device: str | torch.device = "cuda",
    rank: int | None = None,
) -> PinnedSnapshot:
    """Map the files of a snapshot and lock their pages in memory, without a copy of them.

    Each restore then is a copy from there to the device, and checks every chunk again: the pages
    are those of the files, so what others write to the files in place shows up.

    Args:
        path: a file or folder of any known format, or a snapshot opened by `thaw.open`, which is
            closed with what is returned.
        device: a CUDA device; the pages are locked for all of them.
        rank: which rank, where the snapshot has several.

    Raises:
        FormatError: the file is damaged.
        BackendError: there is no CUDA device, or the pages cannot be locked.
    """
    began = time.perf_counter()
    where = torch.device(device)
    if where.type != "cuda" or not torch.cuda.is_available():
        raise UnavailableBackendError("pin", where, "pages are locked for CUDA devices only")
    snapshot = path if isinstance(path, Snapshot) else open_snapshot(path, rank=rank)
    pinned: list[PinnedSource] = []
    try:
        with torch.cuda.device(where):
            for source in snapshot.sources:
                pinned.append(PinnedSource(source))
    except BaseException:
        for each in pinned:
            each.release()
        snapshot.close()
        raise
    return PinnedSnapshot(replace(snapshot, sources=tuple(pinned)), time.perf_counter() - began)


class PinnedSnapshot:
    """A snapshot whose files lie in page-locked memory, until it is closed.

    Attributes:
        snapshot: the same as `thaw.open` returns, on page-locked sources.
        nbytes: how much memory is locked.
        elapsed_s: how long that took.
    """

    def __init__(self, snapshot: Snapshot, elapsed_s: float) -> None:
        self.snapshot, self.nbytes, self.elapsed_s = snapshot, snapshot.file_nbytes, elapsed_s
        self._restores, self._closed = 0, False
        self._changed = threading.Condition()

    def restore(
        self,
        *,
        into: nn.Module | Mapping[str, torch.Tensor] | None = None,
        device: str | torch.device | None = None,
        backend: str | Backend = "auto",
        names: str | Sequence[str] | None = None,
        strict: bool = True,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore tensors; arguments, result and errors are those of `thaw.restore`."""
        with self.in_use() as snapshot:
            return restore(
                snapshot,
                into=into,
                device=device,
                backend=backend,
                names=names,
                strict=strict,
                progress=progress,
            )

    @contextmanager
    def in_use(self) -> Iterator[Snapshot]:
        """Give the snapshot, whose memory stays locked until the block ends.

        Raises:
            ValueError: it is closed.
        """
        with self._changed:
            if self._closed:
                raise ValueError("the pinned snapshot is closed")
            self._restores += 1
        try:
            yield self.snapshot
        finally:
            with self._changed:
                self._restores -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Unlock the memory and close the files, once restores under way are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._restores == 0)
            if self._closed:
                return
            self._closed = True
        self.snapshot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()


class PinnedSource:
    """A file mapped into memory whose pages are locked for CUDA.

    The mapping is for devices: the host reads the file itself, since a mapping of a file that
    others truncate kills the process that touches it.

    Attributes:
        address: where the first byte of the file is mapped.
    """

    def __init__(self, source: Source) -> None:
        if not isinstance(source, FileSource):
            raise BackendError(f"only local files can be pinned, not {type(source).__name__}")
        self._source, self._locked = source, False
        self.path, self.nbytes = source.path, source.nbytes
        self.address = self._map()
        try:
            self._populate()
            self._lock()
        except BaseException:
            self.release()
            raise

    def fileno(self) -> int:
        return self._source.fileno()

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._source.read(offset, nbytes)

    def read_into(self, offset: int, buffers: Sequence[HostBuffer]) -> None:
        self._source.read_into(offset, buffers)

    def close(self) -> None:
        """Unlock the memory and close the file."""
        self.release()
        self._source.close()

    def release(self) -> None:
        """Unlock and unmap the memory; the file stays open."""
        if self._locked:
            self._locked = False
            torch.cuda.cudart().cudaHostUnregister(self.address)
        if self.address:
            _libc.munmap(self.address, self.nbytes)
            self.address = 0

    def _map(self) -> int:
        # Python's own mapping does not tell the address of one that is read-only.
        address: int | None = _libc.mmap(
            None, self.nbytes, mmap.PROT_READ, mmap.MAP_SHARED, self._source.fileno(), 0
        )
        if address is None or address == _FAILED:
            raise self._refused("it cannot be mapped")
        return address

    def _populate(self) -> None:
        """Bring every page into the mapping, in parallel: locking does so one by one."""

        def populate(start: int) -> None:
            nbytes = min(_POPULATE_NBYTES, self.nbytes - start)
            if _libc.madvise(self.address + start, nbytes, _POPULATE_READ):
                raise self._refused("its pages cannot be brought in")

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thaw-pin") as pool:
            list(pool.map(populate, range(0, self.nbytes, _POPULATE_NBYTES)))

    def _lock(self) -> None:
        cudart = torch.cuda.cudart()
        status = int(cudart.cudaHostRegister(self.address, self.nbytes, _PORTABLE_AND_READ_ONLY))
        if status:
            reason = cudart.cudaGetErrorString(cudart.cudaError(status))
            raise BackendError(f"{self.path}: its pages cannot be locked: {reason}")
        self._locked = True

    def _refused(self, what: str) -> BackendError:
        return BackendError(f"{self.path}: {what}: {os.strerror(ctypes.get_errno())}")
