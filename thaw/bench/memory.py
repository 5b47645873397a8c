"""Memory to move bytes through, and what the page cache holds."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import torch
from thaw_format.checksum import HostBuffer, host_buffer

from .threads import move_pieces

PIECE_NBYTES = 4 << 20
_PINNED_NBYTES = 512 << 20
_PLAIN_NBYTES = 128 << 20


def available_nbytes() -> int:
    """Return how much memory could be taken without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def transfer_buffer(device: torch.device, nbytes: int = _PINNED_NBYTES) -> torch.Tensor:
    """Make host memory that is aligned to pages, touched and, for CUDA, pinned.

    It is small, since pinning is slow: what moves more than its size goes round in it.
    """
    if device.type == "cuda" and torch.cuda.is_available():
        size = max(_PLAIN_NBYTES, min(nbytes, _PINNED_NBYTES)) // (8 << 20) * (8 << 20)
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    else:
        memory = torch.frombuffer(mmap.mmap(-1, _PLAIN_NBYTES), dtype=torch.uint8)
    memory.view(torch.int64).random_()
    return memory


def split(memory: torch.Tensor, piece_nbytes: int) -> list[torch.Tensor]:
    """Cut 1-D memory into pieces."""
    return [memory[start:][:piece_nbytes] for start in range(0, len(memory), piece_nbytes)]


def slots(memory: torch.Tensor, threads: int, piece_nbytes: int) -> list[list[HostBuffer]]:
    """Cut memory into at most two pieces a thread; small ones stay in the cores' caches."""
    each = max(1, min(2, len(memory) // (threads * piece_nbytes)))
    pieces = [host_buffer(piece) for piece in split(memory, piece_nbytes)]
    return [pieces[thread * each :][:each] for thread in range(threads)]


def warm(path: Path) -> None:
    """Read a file once, so that the page cache holds what fits."""
    memory = transfer_buffer(torch.device("cpu"))
    buffers = slots(memory, 8, PIECE_NBYTES)
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = -(-os.fstat(fd).st_size // PIECE_NBYTES)

        def read(thread: int, number: int) -> int:
            return os.preadv(fd, buffers[thread][:1], number * PIECE_NBYTES)

        move_pieces(read, pieces, threads=8)
    finally:
        os.close(fd)


def drop(path: Path) -> None:
    """Take a file out of the page cache.

    Raises:
        OSError: pages of it are still there.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pages = -(-os.fstat(fd).st_size // mmap.PAGESIZE)
        if left := resident_pages(fd):
            raise OSError(f"the page cache keeps {left:,} of {pages:,} pages of {path}")
    finally:
        os.close(fd)


def resident_pages(fd: int) -> int:
    """Count the pages of a file that the page cache holds."""
    size = os.fstat(fd).st_size
    if not size:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    # Not through Python's mmap: the address of a mapping that is only read is not to be had there.
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        found = torch.zeros(-(-size // mmap.PAGESIZE), dtype=torch.uint8)
        if libc.mincore(address, size, found.data_ptr()):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int((found & 1).sum())
    finally:
        libc.munmap(address, size)
