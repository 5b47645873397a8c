"""What the same machine does in the same minute without thaw: plain writes and plain reads.

Disks and fresh memory differ from one minute to the next more than from one program to another,
so these are made between the samples that they are compared with.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bench_case import Times
from thaw.bench.disk import DIRECT_PIECE_NBYTES, read_pieces, write_file
from thaw.bench.memory import PIECE_NBYTES, transfer_buffer

_WRITERS = (4, 16)
_READERS = 16


def write_plainly(folder: Path, device: torch.device, nbytes: int, how: str, times: Times) -> None:
    """Write as many bytes of pinned memory to a new file and sync it, by few threads and many.

    Args:
        how: "buffered" or "O_DIRECT".
    """
    memory = transfer_buffer(device)
    size = -(-nbytes // PIECE_NBYTES) * PIECE_NBYTES
    for threads in _WRITERS:
        gbps = write_file(folder, memory, size, how, threads)
        way = f"{how}, {threads} x {PIECE_NBYTES >> 20} MiB"
        times.setdefault(way, []).append(nbytes / gbps / 1e9)


def read_plainly(path: Path, device: torch.device, nbytes: int, times: Times) -> None:
    """Read a file past the page cache into pinned memory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        gbps = read_pieces(fd, transfer_buffer(device), DIRECT_PIECE_NBYTES, _READERS)
    finally:
        os.close(fd)
    way = f"O_DIRECT, {_READERS} x {DIRECT_PIECE_NBYTES >> 20} MiB"
    times.setdefault(way, []).append(nbytes / gbps / 1e9)
