"""What files can be read and written at."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path

import torch

from .memory import PIECE_NBYTES, available_nbytes, slots, transfer_buffer
from .threads import move_pieces
from .ways import Ceiling, Way, cores, try_way

DIRECT_PIECE_NBYTES = 8 << 20
_LIMIT_S = 2.0
_MOST_THREADS = 32
_IN_MEMORY = {"ramfs", "tmpfs"}


def disk_ceilings(
    folder: Path, device: torch.device, nbytes: int, repeat: int
) -> tuple[Ceiling, ...]:
    """Measure reads from the page cache and past it, and writes that reach the disk."""
    memory = transfer_buffer(device)
    kind = filesystem(folder)
    size = _file_nbytes(folder, nbytes, in_memory=kind in _IN_MEMORY)
    with nameless_file(folder) as (fd, direct):
        _fill(fd, memory, size)
        counts = sorted({1, 4, 16, min(cores(), _MOST_THREADS)})
        cached = [_read(fd, memory, PIECE_NBYTES, threads, repeat) for threads in counts]
        past = _read_past_the_cache(fd, direct, memory, kind, repeat)
    written = _writes(folder, memory, size, kind, repeat)
    return (
        Ceiling.of("read-page-cache", cached),
        Ceiling.of("read-direct", past),
        Ceiling.of("write", written),
    )


def filesystem(folder: Path) -> str:
    """Name the kind of file system that a folder is on; empty where that is not known."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""


@contextmanager
def nameless_file(folder: Path) -> Iterator[tuple[int, int | str]]:
    """Open a new file twice, buffered and past the page cache (or why not), and unlink it.

    Whatever ends the process, nothing is left in the folder.
    """
    fd, name = tempfile.mkstemp(prefix=".thaw-bench-", dir=folder)
    opened = [fd]
    try:
        try:
            direct: int | str = os.open(name, os.O_RDWR | os.O_DIRECT)
            opened.append(int(direct))
        except OSError as error:
            direct = error.strerror or str(error)
        finally:
            os.unlink(name)
        yield fd, direct
    finally:
        for each in opened:
            os.close(each)


def _file_nbytes(folder: Path, nbytes: int, *, in_memory: bool) -> int:
    free = shutil.disk_usage(folder).free // 2
    memory = available_nbytes() // 4
    size = min(nbytes, free, memory // 2 if in_memory else memory)
    return max(2 * DIRECT_PIECE_NBYTES, size // DIRECT_PIECE_NBYTES * DIRECT_PIECE_NBYTES)


def _fill(fd: int, memory: torch.Tensor, size: int) -> None:
    buffers = slots(memory, 8, PIECE_NBYTES)

    def write(thread: int, number: int) -> int:
        return os.pwrite(fd, buffers[thread][number % 2], number * PIECE_NBYTES)

    move_pieces(write, size // PIECE_NBYTES, threads=8)


def _read(fd: int, memory: torch.Tensor, piece_nbytes: int, threads: int, repeat: int) -> Way:
    how = f"{threads} x {piece_nbytes >> 20} MiB"
    once = partial(read_pieces, fd, memory, piece_nbytes, threads, limit_s=_LIMIT_S)
    return try_way(how, repeat, once)


def read_pieces(
    fd: int, memory: torch.Tensor, piece_nbytes: int, threads: int, *, limit_s: float = inf
) -> float:
    """Read the whole pieces of a file into the same memory again and again; return GB/s."""
    buffers = slots(memory, threads, piece_nbytes)
    pieces = -(-os.fstat(fd).st_size // piece_nbytes)

    def read(thread: int, number: int) -> int:
        mine = buffers[thread]
        return os.preadv(fd, [mine[number % len(mine)]], number * piece_nbytes)

    return move_pieces(read, pieces, threads=threads, limit_s=limit_s)


def _read_past_the_cache(
    fd: int, direct: int | str, memory: torch.Tensor, kind: str, repeat: int
) -> list[Way]:
    if kind in _IN_MEMORY:
        return [Way("O_DIRECT", None, reason=f"{kind} is memory: there is no disk behind it")]
    if isinstance(direct, str):
        return [Way("O_DIRECT", None, reason=direct)]
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return [_read(direct, memory, DIRECT_PIECE_NBYTES, threads, repeat) for threads in (1, 4, 16)]


def _writes(folder: Path, memory: torch.Tensor, size: int, kind: str, repeat: int) -> list[Way]:
    ways = []
    for how in ("buffered", "O_DIRECT"):
        for threads in (4, 16):
            name = f"{how}, {threads} x 4 MiB"
            if how == "O_DIRECT" and kind in _IN_MEMORY:
                ways.append(Way(name, None, reason=f"{kind} is memory"))
                continue
            once = partial(write_file, folder, memory, size, how, threads, limit_s=_LIMIT_S)
            ways.append(try_way(name, repeat, once))
    return ways


def write_file(
    folder: Path,
    memory: torch.Tensor,
    size: int,
    how: str,
    threads: int,
    *,
    limit_s: float = inf,
) -> float:
    """Write a new file from the same memory again and again and sync it; return GB/s.

    Args:
        how: "buffered" or "O_DIRECT".
    """
    buffers = slots(memory, threads, PIECE_NBYTES)
    with nameless_file(folder) as (buffered, direct):
        if how == "O_DIRECT" and isinstance(direct, str):
            raise OSError(direct)
        fd = int(direct) if how == "O_DIRECT" else buffered

        def write(thread: int, number: int) -> int:
            mine = buffers[thread]
            return os.pwrite(fd, mine[number % len(mine)], number * PIECE_NBYTES)

        return move_pieces(
            write,
            size // PIECE_NBYTES,
            threads=threads,
            limit_s=limit_s,
            finish=lambda: os.fsync(fd),
        )
