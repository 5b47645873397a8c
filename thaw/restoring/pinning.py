"""Pin: lock the pages of a snapshot's files once, and restore from there again and again."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Self

import torch
from thaw_format import FileSource, Snapshot, Source
from thaw_format.checksum import HostBuffer
from thaw_format.source import window
from torch import nn

from ..errors import BackendError, UnavailableBackendError
from ..plugins.opening import open_snapshot
from ..reports import Restored
from ..seam.backend import Backend, Progress
from .api import restore
from .destination import Storages
from .file_identity import PathIdentity

_POPULATE_READ = 22  # MADV_POPULATE_READ, which Python does not name
_PORTABLE_AND_READ_ONLY = 0x01 | 0x08
_POPULATE_NBYTES = 64 << 20
_PIECE_NBYTES = 1 << 20

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

    Each restore then is a copy from there to the device, and checks every chunk again. Before that
    it looks at the path: once another file has the name, or none, or the file was written to, what
    is locked is not what the path says, and restores end in an error until it is pinned again.

    Args:
        path: a file or folder of any known format, or a snapshot opened by `thaw.open`, which is
            closed with what is returned.
        device: a CUDA device, to which restores go that name no other; the pages are locked for all
            of them.
        rank: which rank, where the snapshot has several. Not to be given with an open snapshot.

    Raises:
        FormatError: the file is damaged.
        MismatchError: the path has been given to another file since the snapshot was opened.
        BackendError: there is no CUDA device, or the pages cannot be locked.
    """
    began = time.perf_counter()
    if rank is not None and isinstance(path, Snapshot):
        raise TypeError("give rank= with a path: a snapshot that is open is that of one rank")
    where = torch.device(device)
    if where.type != "cuda" or not torch.cuda.is_available():
        raise UnavailableBackendError("pin", where, "pages are locked for CUDA devices only")
    if where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    snapshot = path if isinstance(path, Snapshot) else open_snapshot(path, rank=rank)
    pinned: list[PinnedSource] = []
    try:
        with torch.cuda.device(where):
            for source in snapshot.sources:
                pinned.append(PinnedSource(source))
        locked = replace(snapshot, sources=tuple(pinned))
        made = PinnedSnapshot(locked, time.perf_counter() - began, path=path, device=where)
        made.check()
    except BaseException:
        for each in pinned:
            each.release()
        snapshot.close()
        raise
    return made


class PinnedSnapshot:
    """A snapshot whose files lie in page-locked memory, until it is closed.

    Attributes:
        nbytes: how much memory is locked.
        device: where restores go that are not told.
        elapsed_s: how long locking took.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        elapsed_s: float,
        *,
        path: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cuda",
    ) -> None:
        self._snapshot, self._restores, self._closed = snapshot, 0, False
        self.nbytes, self.elapsed_s = snapshot.file_nbytes, elapsed_s
        self.device = torch.device(device)
        files = [s for s in snapshot.sources if isinstance(s, FileSource | PinnedSource)]
        self._named = PathIdentity.of((path or snapshot.path, snapshot.path), files)
        self._changed = threading.Condition()

    @property
    def snapshot(self) -> Snapshot:
        """The same as `thaw.open` returns, on page-locked sources; `in_use` keeps them locked.

        Raises:
            ValueError: it is closed.
        """
        with self._changed:
            self._check_open()
        return self._snapshot

    def restore(
        self,
        *,
        into: nn.Module | Mapping[str, torch.Tensor] | None = None,
        device: str | torch.device | None = None,
        backend: str | Backend = "auto",
        names: str | Sequence[str] | None = None,
        strict: bool = True,
        storages: Storages = "shared",
        arena: torch.Tensor | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore tensors; arguments, result and errors are those of `thaw.restore`.

        Without `into`, `device` and `arena`, tensors go to the device that was named to `thaw.pin`.

        Raises:
            MismatchError: the path names another file by now, or none, or the file was written to.
            ValueError: it is closed.
        """
        if into is None and device is None and arena is None:
            device = self.device
        with self.in_use() as snapshot:
            return restore(
                snapshot,
                into=into,
                device=device,
                backend=backend,
                names=names,
                strict=strict,
                storages=storages,
                arena=arena,
                progress=progress,
            )

    @contextmanager
    def in_use(self) -> Iterator[Snapshot]:
        """Give the snapshot, whose memory stays locked until the block ends.

        Raises:
            MismatchError: the path names another file by now, or none, or the file was written to.
            ValueError: it is closed.
        """
        with self._changed:
            self._check_open()
            self._restores += 1
        try:
            self.check()
            yield self._snapshot
        finally:
            with self._changed:
                self._restores -= 1
                self._changed.notify_all()

    def check(self) -> None:
        """See that the path still names what is locked, unchanged.

        Raises:
            MismatchError: it names another file, or none, or the file was written to.
        """
        self._named.check()

    def close(self) -> None:
        """Unlock the memory and close the files, once restores under way are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._restores == 0)
            if self._closed:
                return
            self._closed = True
        self._snapshot.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the pinned snapshot is closed: pin the path again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()


class PinnedSource:
    """A file mapped into memory whose pages are locked for CUDA.

    The mapping is for devices: the host reads the file itself, since a mapping of a file that
    others truncate kills the process that touches it.

    """

    def __init__(self, source: Source) -> None:
        if not isinstance(source, FileSource):
            raise BackendError(f"only local files can be pinned, not {type(source).__name__}")
        self._source, self._locked = source, False
        self.path, self.nbytes = source.path, source.nbytes
        self._address = self._map()
        try:
            self._populate()
            self._lock()
        except BaseException:
            self.release()
            raise

    def locked_address(self) -> int:
        """Return where the first byte of the file is mapped.

        Raises:
            ValueError: it is released, and nothing is mapped any more.
        """
        if not self._address:
            raise ValueError(f"{self.path}: is not pinned any more: pin it again")
        return self._address

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
            torch.cuda.cudart().cudaHostUnregister(self._address)
        if self._address:
            _libc.munmap(self._address, self.nbytes)
            self._address = 0

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
            if not _libc.madvise(self._address + start, nbytes, _POPULATE_READ):
                return
            if ctypes.get_errno() != errno.EINVAL:
                raise self._refused("its pages cannot be brought in")
            # A kernel before 5.14: locking maps them then, in little time if they are in memory.
            self._read_through(start, nbytes)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thaw-pin") as pool:
            list(pool.map(populate, range(0, self.nbytes, _POPULATE_NBYTES)))

    def _read_through(self, start: int, nbytes: int) -> None:
        piece = (ctypes.c_ubyte * min(_PIECE_NBYTES, nbytes))()
        for offset in range(start, start + nbytes, len(piece)):
            left = min(len(piece), start + nbytes - offset)
            self._source.read_into(offset, [window(piece, 0, left)])

    def _lock(self) -> None:
        cudart = torch.cuda.cudart()
        status = int(cudart.cudaHostRegister(self._address, self.nbytes, _PORTABLE_AND_READ_ONLY))
        if status:
            reason = cudart.cudaGetErrorString(cudart.cudaError(status))
            raise BackendError(f"{self.path}: its pages cannot be locked: {reason}")
        self._locked = True

    def _refused(self, what: str) -> BackendError:
        return BackendError(f"{self.path}: {what}: {os.strerror(ctypes.get_errno())}")
