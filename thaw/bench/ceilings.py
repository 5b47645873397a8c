"""The most that this machine moves by each way, whatever the backend."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .disk import disk_ceilings
from .memory import PIECE_NBYTES, available_nbytes, split, transfer_buffer
from .threads import move_pieces
from .ways import Ceiling, Way, cores, try_way

_COPIED_NBYTES = 1 << 30


def measure_ceilings(
    folder: Path, device: torch.device, *, nbytes: int = 4 << 30, repeat: int = 3
) -> tuple[Ceiling, ...]:
    """Measure what bounds every transfer between `device` and files of `folder`.

    Args:
        folder: where files are made; they have no name there once they are open.
        nbytes: how much each run moves; less where memory or disk do not allow it.
        repeat: runs of each way.
    """
    return (
        *(_bus(device, nbytes, repeat) if device.type == "cuda" else ()),
        Ceiling.of("memcpy", _memcpy(nbytes, repeat)),
        *disk_ceilings(folder, device, nbytes, repeat),
    )


def _bus(device: torch.device, nbytes: int, repeat: int) -> Iterator[Ceiling]:
    names = ("h2d-pinned", "d2h-pinned")
    if not torch.cuda.is_available():
        none = Way("pinned", None, reason="torch sees no CUDA device")
        yield from (Ceiling.of(name, [none]) for name in names)
        return
    pinned = transfer_buffer(device, nbytes)
    there = torch.empty_like(pinned, device=device)
    for name, source, target in zip(names, (pinned, there), (there, pinned), strict=True):
        ways = []
        for how, piece_nbytes in (("one copy", len(pinned)), ("4 MiB pieces", PIECE_NBYTES)):
            once = _copying(source, target, piece_nbytes, max(1, nbytes // len(pinned)), device)
            once()
            ways.append(try_way(how, repeat, once))
        yield Ceiling.of(name, ways)
    del there
    torch.cuda.empty_cache()


def _copying(
    source: torch.Tensor, target: torch.Tensor, piece_nbytes: int, rounds: int, device: torch.device
) -> Callable[[], float]:
    pairs = list(zip(split(source, piece_nbytes), split(target, piece_nbytes), strict=True))

    def once() -> float:
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(rounds):
            for one, other in pairs:
                other.copy_(one, non_blocking=True)
        torch.cuda.synchronize(device)
        return rounds * len(source) / (time.perf_counter() - began) / 1e9

    return once


def _memcpy(nbytes: int, repeat: int) -> list[Way]:
    size = max(PIECE_NBYTES, min(nbytes, _COPIED_NBYTES, available_nbytes() // 8))
    # Filled so that every page is there.
    source = torch.full((size,), 1, dtype=torch.uint8)
    target = torch.full((size,), 2, dtype=torch.uint8)
    return [_memcpy_by(threads, source, target, repeat) for threads in _thread_counts(cores())]


def _memcpy_by(threads: int, source: torch.Tensor, target: torch.Tensor, repeat: int) -> Way:
    size, rounds = len(source), max(1, _COPIED_NBYTES // len(source))
    each = -(-size // (threads * 4))
    starts = list(range(0, size, each)) * rounds

    def move(_: int, number: int) -> int:
        start = starts[number]
        count = min(each, size - start)
        ctypes.memmove(target.data_ptr() + start, source.data_ptr() + start, count)
        return count

    return try_way(
        _by(threads), repeat, lambda: move_pieces(move, len(starts), threads=threads, limit_s=1)
    )


def _thread_counts(most: int) -> list[int]:
    """List 1, 2, 4 and so on, and the most."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def _by(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"
