"""What runs in a process of its own: python parity_children.py TASK BACKEND DEVICE PATH.

Limits of a process cannot be lifted again, and an interrupt is meant for a whole process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NOT_POSSIBLE = 77
CAP_IPC_LOCK = 14
IO_URING_SETUP = 425
PR_SET_PDEATHSIG = 1
SIZES = {"a": 9_000_000, "b": 1, "c": 5_000_001}


def lock_no_memory() -> None:
    """Forbid the locking of memory; a privilege of root's would go around the limit."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    header = struct.pack("Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    if LIBC.capget(header, sets):
        refuse("capget")
    words = [word & ~(1 << CAP_IPC_LOCK) if at < 2 else word for at, word in _words(sets)]
    if LIBC.capset(header, struct.pack("6I", *words)):
        refuse("capset")
    page = ctypes.create_string_buffer(8192)
    if not LIBC.mlock(page, 8192):
        refuse("a limit of locked memory")


def _words(sets: ctypes.Array[ctypes.c_char]) -> list[tuple[int, int]]:
    return list(enumerate(struct.unpack("6I", sets.raw)))


def forbid_io_uring() -> None:
    """Let io_uring_setup fail with EPERM, as container runtimes do."""
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [(load, 0, 0, 0), (jump_if_equal, 0, 1, IO_URING_SETUP), (give, 0, 0, fail)]
    code = b"".join(struct.pack("HBBI", *each) for each in [*program, (give, 0, 0, allow)])
    buffer = ctypes.create_string_buffer(code)
    filters = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    no_new_privileges, seccomp, filter_mode = 38, 22, 2
    if LIBC.prctl(no_new_privileges, 1, 0, 0, 0) or LIBC.prctl(seccomp, filter_mode, filters):
        refuse("seccomp")
    parameters = ctypes.create_string_buffer(120)
    assert LIBC.syscall(IO_URING_SETUP, 1, parameters) == -1
    assert ctypes.get_errno() == errno.EPERM


def refuse(what: str) -> None:
    print(f"{what} is not possible here: {os.strerror(ctypes.get_errno())}")
    sys.exit(NOT_POSSIBLE)


def drop_from_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def tensors(device: str) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 256, (n,), dtype=torch.uint8, generator=generator).to(device)
        for name, n in SIZES.items()
    }


def round_trip(backend: str, device: str, path: Path) -> None:
    """Freeze and restore; a backend may say that it cannot, but nothing else."""
    import torch

    import thaw

    wanted = tensors(device)
    try:
        thaw.freeze(wanted, path, backend=backend)
        drop_from_cache(path)
        restored = thaw.restore(path, device=device, backend=backend)
    except thaw.BackendError as error:
        print(f"backend error: {error}")
        return
    assert all(torch.equal(restored[name], tensor) for name, tensor in wanted.items())
    thaw.verify(path)
    print(f"identical by {restored.report.route}")


def without_locked_memory(backend: str, device: str, path: Path) -> None:
    lock_no_memory()
    round_trip(backend, device, path)


def without_io_uring(backend: str, device: str, path: Path) -> None:
    forbid_io_uring()
    round_trip(backend, device, path)


def within_a_size_limit(backend: str, device: str, path: Path) -> None:
    """Freeze; the limit is set when the file has its size already and the backend begins."""
    import thaw
    from thaw.plugins.host import registry

    inner = registry().backends[backend]

    class Limited(thaw.Backend):
        name = inner.name

        def probe(self, device: Any) -> thaw.Support:
            return inner.probe(device)

        def read(self, source: Any, plan: Any, *, progress: Any = None) -> thaw.Transfer:
            raise NotImplementedError

        def write(self, target: Any, plan: Any, *, progress: Any = None) -> thaw.Transfer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
            return inner.write(target, plan, progress=progress)

    try:
        thaw.freeze(tensors(device), path, backend=Limited())
    except OSError as error:
        print(f"OSError: {error.strerror}")


def forever(step: Callable[[Callable[[int], None]], object]) -> None:
    """Repeat a transfer until an interrupt comes; say when the first bytes moved, and when it came.

    An interrupt may be ignored in a process that a shell started in the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first = True

    def progress(_: int) -> None:
        nonlocal first
        if first:
            first = False
            print("moving", flush=True)

    try:
        while True:
            step(progress)
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
        raise


def restore_forever(backend: str, device: str, path: Path) -> None:
    import thaw

    forever(lambda step: thaw.restore(path, device=device, backend=backend, progress=step))


def freeze_forever(backend: str, device: str, path: Path) -> None:
    import torch

    import thaw

    held = {"x": torch.ones(256 << 20, dtype=torch.uint8, device=device)}
    forever(lambda step: thaw.freeze(held, path, backend=backend, progress=step))


if __name__ == "__main__":
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    globals()[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]))
