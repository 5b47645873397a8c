"""Random transfers through the stand-in for the CUDA driver, in a process of its own."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import tempfile
import threading
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

from google_crc32c import value as crc32c
from thaw_native import _native

SEED, COUNT = int(sys.argv[1]), int(sys.argv[2])
PTX = b"no text"
DEVICES = 8
Triples: TypeAlias = list[tuple[int, int, int]]


def columns(triples: Triples) -> tuple[array[int], array[int], array[int]]:
    """Put offsets, addresses and sizes in columns."""
    offsets, addresses, sizes = zip(*triples, strict=True) if triples else ((), (), ())
    return array("q", offsets), array("q", addresses), array("q", sizes)


class Case:
    """A payload of known bytes, and memory for random parts of it."""

    def __init__(self, choose: random.Random, path: Path) -> None:
        self.chunk_nbytes = choose.choice([4096, 8192, 65536, 1 << 20])
        self.base = choose.choice([4096, 8192])
        count = choose.choice([1, 3, 40, 400])
        self.extents, at = [], 0
        for _ in range(count):
            at += choose.choice([0, 0, 1, 511, 5000, choose.randrange(200_000)])
            nbytes = choose.choice([1, 2, 77, 512, 4096, choose.randrange(1, 300_000)])
            if at + nbytes > 6_000_000:
                break
            self.extents.append((at, nbytes))
            at += nbytes
        self.nbytes = at + choose.randrange(5000)
        self.payload = bytearray(self.nbytes)
        for start, nbytes in self.extents:
            self.payload[start : start + nbytes] = choose.randbytes(nbytes)
        self.path = path
        self.memory = [ctypes.create_string_buffer(n + 3) for _, n in self.extents]
        self.device, self.checks_there = choose.randrange(DEVICES), choose.random() < 0.8
        self.settings = _native.Settings(
            choose.choice([1, 2, 5]),
            choose.choice([4096, 65536, 1 << 20]),
            choose.choice([4096, 16384, 1 << 20]),
            choose.choice([1, 2, 3]),
            choose.choice(["auto", "buffered", "direct"]),
            self.checks_there,
        )

    def triples(self) -> Triples:
        return [
            (self.base + start, ctypes.addressof(memory) + 1, nbytes)
            for (start, nbytes), memory in zip(self.extents, self.memory, strict=True)
        ]

    @property
    def chunks(self) -> tuple[int, int, int]:
        return self.base, self.nbytes, self.chunk_nbytes

    def digests(self) -> list[int]:
        step = self.chunk_nbytes
        return [crc32c(bytes(self.payload[i : i + step])) for i in range(0, self.nbytes, step)]

    def check_read(self, digests: bool) -> None:
        self.path.write_bytes(b"\xaa" * self.base + self.payload)
        moved: list[int] = []
        with self.path.open("rb") as file:
            size = self.base + self.nbytes
            pinned = None
            if digests and SEED % 3 == 0 and self.checks_there:
                held = ctypes.create_string_buffer(self.path.read_bytes(), size)
                pinned = ctypes.addressof(held)
            request = _native.ReadRequest(
                files=[(file.fileno(), size, columns(self.triples()))],
                settings=self.settings,
                device=(self.device, PTX),
                pinned=pinned,
                digests=(self.chunks, self.digests()) if digests else None,
            )
            _native.read(request, moved.append)
        assert sum(moved) == sum(nbytes for _, nbytes in self.extents)
        self.check_memory()

    def check_memory(self) -> None:
        for (start, nbytes), memory in zip(self.extents, self.memory, strict=True):
            assert memory.raw[1 : 1 + nbytes] == self.payload[start : start + nbytes]
            assert memory.raw[0] == memory.raw[-1] == memory.raw[-2] == 0

    def check_flipped(self, choose: random.Random) -> None:
        start, nbytes = choose.choice(self.extents)
        where = start + choose.randrange(nbytes)
        digests = self.digests()
        self.payload[where] ^= 1 << choose.randrange(8)
        self.path.write_bytes(b"\xaa" * self.base + self.payload)
        with self.path.open("rb") as file:
            request = _native.ReadRequest(
                files=[(file.fileno(), self.base + self.nbytes, columns(self.triples()))],
                settings=self.settings,
                device=(self.device, PTX),
                digests=(self.chunks, digests),
            )
            try:
                _native.read(request)
            except _native.NativeError as error:
                first = self.base + where // self.chunk_nbytes * self.chunk_nbytes
                assert error.args[0] == "checksum" and error.args[3] == first, error.args
            else:
                raise AssertionError("a flipped bit was not found")

    def check_write(self, choose: random.Random) -> None:
        for (start, nbytes), memory in zip(self.extents, self.memory, strict=True):
            memory[1 : 1 + nbytes] = bytes(self.payload[start : start + nbytes])
        there, here = [], []
        for triple in self.triples():
            (here if choose.random() < 0.2 else there).append(triple)
        with self.path.open("w+b") as file:
            os.ftruncate(file.fileno(), self.base + self.nbytes)
            _, crcs = self.write(file.fileno(), there, here)
        assert self.path.read_bytes() == bytes(self.base) + self.payload
        assert crcs == self.digests()

    def write(self, fd: int, there: Triples, here: Triples) -> tuple[str, list[int]]:
        request = _native.WriteRequest(
            fd=fd,
            extents=columns(there),
            chunks=self.chunks,
            settings=self.settings,
            device=(self.device, PTX),
            on_host=columns(here),
        )
        return _native.write(request)

    def check_write_of_changing_memory(self) -> None:
        """Digests are of the bytes in the file, whatever becomes of the memory meanwhile."""
        over = threading.Event()

        def change() -> None:
            value = 0
            while not over.is_set():
                value = (value + 1) % 256
                for memory in self.memory:
                    ctypes.memset(ctypes.addressof(memory), value, len(memory))

        thread = threading.Thread(target=change)
        thread.start()
        try:
            with self.path.open("w+b") as file:
                os.ftruncate(file.fileno(), self.base + self.nbytes)
                _, crcs = self.write(file.fileno(), self.triples(), [])
        finally:
            over.set()
            thread.join()
        self.payload = bytearray(self.path.read_bytes()[self.base :])
        assert crcs == self.digests()


def check_several(choose: random.Random, folder: Path) -> None:
    """Read several files at once; then one of them has become shorter."""
    cases = [Case(choose, folder / f"payload-{i}") for i in range(choose.choice([2, 3, 9]))]
    with ExitStack() as stack:
        files = []
        for case in cases:
            case.path.write_bytes(b"\xaa" * case.base + case.payload)
            file = stack.enter_context(case.path.open("rb"))
            files.append((file.fileno(), case.base + case.nbytes, columns(case.triples())))
        settings, device = cases[0].settings, (cases[0].device, PTX)
        request = _native.ReadRequest(files=files, settings=settings, device=device)
        moved: list[int] = []
        _native.read(request, moved.append)
        assert sum(moved) == sum(nbytes for case in cases for _, nbytes in case.extents)
        for case in cases:
            case.check_memory()
        index = choose.randrange(len(cases))
        start, nbytes = choose.choice(cases[index].extents)
        end = cases[index].base + start + choose.randrange(nbytes)
        os.truncate(cases[index].path, end)
        try:
            _native.read(request)
        except _native.NativeError as error:
            assert error.args[0] == "truncated" and error.args[2:4] == (index, end), error.args
        else:
            raise AssertionError("a file that became shorter was not found")


def check_devices(path: Path) -> None:
    """Read to one device after the other, whose lanes do not all fit into the pool."""
    nbytes, chunk_nbytes = 1 << 20, 1 << 16
    payload = random.Random(SEED).randbytes(nbytes)
    path.write_bytes(payload)
    parts = [payload[i : i + chunk_nbytes] for i in range(0, nbytes, chunk_nbytes)]
    settings = _native.Settings(16, 8 << 20, 512 << 10, 8, "buffered", True)
    assert DEVICES * 8 * (8 << 20) > _native.MAX_POOL_NBYTES
    for device in (*range(DEVICES), *range(DEVICES)):
        memory = ctypes.create_string_buffer(nbytes)
        extents = [(0, ctypes.addressof(memory), nbytes)]
        with path.open("rb") as file:
            request = _native.ReadRequest(
                files=[(file.fileno(), nbytes, columns(extents))],
                settings=settings,
                device=(device, PTX),
                digests=((0, nbytes, chunk_nbytes), [crc32c(part) for part in parts]),
            )
            _native.read(request)
        assert memory.raw == payload


def main() -> None:
    choose = random.Random(SEED)
    assert _native.obstacle(0) is None
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(COUNT):
            case = Case(choose, Path(folder, "payload"))
            case.check_read(digests=True)
            case.check_read(digests=False)
            case.check_write(choose)
            case.check_flipped(choose)
            check_several(choose, Path(folder))
            case.check_write_of_changing_memory()
        check_devices(Path(folder, "payload"))
    print("done")


if __name__ == "__main__":
    main()
