"""What a benchmark reads from the machine: memory while something runs, and the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_PIECE_NBYTES = 16 << 20
_SAMPLES_EVERY_S = 0.002


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in use.

    Attributes:
        device_nbytes: of the device, by all that runs on it.
        torch_nbytes: by tensors of this process on the device.
        anonymous_nbytes: resident memory of this process that is no file's.
        machine_nbytes: memory of the machine that is neither free nor page cache; what the driver
            pins is seen only here.
    """

    device_nbytes: int
    torch_nbytes: int
    anonymous_nbytes: int
    machine_nbytes: int

    @classmethod
    def now(cls, device: torch.device) -> Usage:
        on_device = in_torch = 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            on_device, in_torch = total - free, torch.cuda.memory_allocated(device)
        machine = _table("/proc/meminfo")
        idle = sum(machine[key] for key in ("MemFree", "Buffers", "Cached", "SReclaimable"))
        anonymous = _table("/proc/self/status")["RssAnon"]
        return cls(on_device, in_torch, anonymous, machine["MemTotal"] - idle)

    def at_least(self, other: Usage) -> Usage:
        names = [field.name for field in fields(self)]
        return Usage(*(max(getattr(self, name), getattr(other, name)) for name in names))


class Sampler:
    """Samples usage from a thread for as long as the block runs."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stop = device, threading.Event()
        self.before = self.peak = Usage.now(device)
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLES_EVERY_S):
            self.peak = self.peak.at_least(Usage.now(self._device))

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = self.peak.at_least(Usage.now(self._device))

    def extra(self, on_device_nbytes: int, on_host_nbytes: int) -> dict[str, float]:
        """Return the peaks beyond what was there before and the bytes that were asked for."""
        peak, before = self.peak, self.before
        torch_peak = peak.torch_nbytes
        if self._device.type == "cuda":
            torch_peak = torch.cuda.max_memory_allocated(self._device)
        return {
            "device_nbytes": peak.device_nbytes - before.device_nbytes - on_device_nbytes,
            "torch_nbytes": torch_peak - before.torch_nbytes - on_device_nbytes,
            "anonymous_nbytes": peak.anonymous_nbytes - before.anonymous_nbytes - on_host_nbytes,
            "machine_nbytes": peak.machine_nbytes - before.machine_nbytes - on_host_nbytes,
        }


def warm(path: Path) -> None:
    """Read a file, or the files of a folder, into the page cache."""
    with ThreadPoolExecutor(16) as pool:
        for file in files_of(path):
            starts = range(0, file.stat().st_size, _PIECE_NBYTES)
            list(pool.map(lambda start, file=file: _read_piece(file, start), starts))


def drop(path: Path) -> None:
    """Write a file's pages to the disk and drop them from the page cache."""
    for file in files_of(path):
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def resident_share(path: Path) -> float:
    """Return which share of a file's pages the page cache holds."""
    resident = pages = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for file in files_of(path):
        nbytes = file.stat().st_size
        count = -(-nbytes // mmap.PAGESIZE)
        vector = (ctypes.c_ubyte * count)()
        with file.open("rb") as opened:
            # A private mapping is writable, so that ctypes may take its address.
            mapped = mmap.mmap(opened.fileno(), nbytes, flags=mmap.MAP_PRIVATE)
            anchor = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(anchor))
            failed = libc.mincore(address, ctypes.c_size_t(nbytes), vector)
            del anchor
            mapped.close()
        if failed:
            raise OSError(ctypes.get_errno(), f"mincore of {file} failed")
        resident += sum(memoryview(vector).tobytes().translate(_LOWEST_BIT))
        pages += count
    return resident / pages


_LOWEST_BIT = bytes(value & 1 for value in range(256))


def files_of(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


def describe_machine(device: torch.device, commit: str | None = None) -> dict[str, object]:
    """Describe where this runs; a commit is given where git cannot tell."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpus = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    described: dict[str, object] = {
        "cpu": cpus[0] if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "memory_nbytes": _table("/proc/meminfo")["MemTotal"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit or _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        described |= {
            "device": found.name,
            "device_nbytes": found.total_memory,
            "cuda": torch.version.cuda,
        }
    return described


def boot_id() -> str:
    """Return what changes whenever the machine starts anew."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _read_piece(file: Path, start: int) -> None:
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        opened.readinto(bytearray(_PIECE_NBYTES))


def _table(path: str) -> dict[str, int]:
    """Read lines like `MemFree: 12 kB` as bytes."""
    found = {}
    for line in Path(path).read_text().splitlines():
        key, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[key] = int(rest.split()[0]) * 1024
    return found
