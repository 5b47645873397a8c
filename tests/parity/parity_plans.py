"""Random plans: where extents lie in a file and in memory, and what must be there afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from thaw_format import Chunks, Digests, FileSource, FileTarget
from thaw_format.checksum import crc32c, host_buffer

from thaw import Backend, Extent, Extents, ReadPlan, Transfer, WritePlan

_MAX_PAYLOAD_NBYTES = 13 << 20
_GUARD_NBYTES = 64


class Mover(NamedTuple):
    """A backend and the device whose memory it moves."""

    backend: Backend
    device: torch.device

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def obstacle(self) -> str:
        support = self.backend.probe(self.device)
        return "" if support.available else support.reason

    def __str__(self) -> str:
        return f"{self.name}-{self.device.type}"


@dataclass(frozen=True, slots=True)
class Shape:
    """Where extents lie.

    Attributes:
        base: where the payload begins in the file.
        extents: (first byte in the payload, nbytes), in order.
        scatter: decides where in memory each extent is; None keeps the distances of the file.
        tail_nbytes: how much of the file comes after the payload.
    """

    base: int
    nbytes: int
    chunk_nbytes: int
    extents: tuple[tuple[int, int], ...]
    has_digests: bool = True
    scatter: int | None = None
    tail_nbytes: int = 0

    @property
    def chunks(self) -> Chunks:
        return Chunks(self.base, self.nbytes, self.chunk_nbytes)

    def touched(self) -> set[int]:
        """Number the chunks that some extent has bytes of."""
        step = self.chunk_nbytes
        return {
            index
            for start, nbytes in self.extents
            for index in range(start // step, (start + nbytes - 1) // step + 1)
        }

    def places(self) -> tuple[list[int], int]:
        """Say where in one allocation each extent is, and how large that is."""
        if self.scatter is None:
            starts = [_GUARD_NBYTES * 8 + start for start, _ in self.extents]
            return starts, self.nbytes + 16 * _GUARD_NBYTES
        choose = random.Random(self.scatter)
        order = list(range(len(self.extents)))
        if self.scatter % 2:
            choose.shuffle(order)
        starts, at = [0] * len(order), _GUARD_NBYTES + self.scatter % 7
        for index in order:
            at += choose.choice([0, 0, 1, 3, 16, 511])
            starts[index], at = at, at + self.extents[index][1]
        return starts, at + _GUARD_NBYTES


@st.composite
def shapes(draw: st.DrawFn, *, to_write: bool = False) -> Shape:
    """Draw a payload of up to several chunks, and extents that lie in it any way."""
    chunk = draw(st.sampled_from([4096, 8192, 1 << 16, 1 << 18, 1 << 20, 4 << 20]))
    has_digests = to_write or draw(st.integers(0, 3)) > 0
    pages = st.sampled_from([4096, 8192, 3 * 4096])
    base = draw(pages if to_write else st.one_of(pages, st.integers(8, 9000)))
    # What is drawn first is what a failure is reduced to: small, and one after the other.
    gaps = st.one_of(st.just(0), st.integers(0, 600), st.sampled_from([chunk, 2 * chunk + 1]))
    edges = [511, 512, 513, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 2 * chunk + 5]
    sizes = st.one_of(
        st.integers(1, 97), st.sampled_from(edges), st.integers(1, min(3 * chunk, 1 << 20))
    )
    extents, at = [], 0
    for gap, nbytes in draw(st.lists(st.tuples(gaps, sizes), max_size=24)):
        if at + gap + nbytes > _MAX_PAYLOAD_NBYTES:
            break
        extents.append((at + gap, nbytes))
        at += gap + nbytes
    rest = draw(st.one_of(st.just(0), st.integers(0, 5000), st.just(chunk + 3)))
    return Shape(
        base,
        at + rest,
        chunk,
        tuple(extents),
        has_digests,
        scatter=draw(st.one_of(st.none(), st.integers(0, 1000))),
        tail_nbytes=0 if to_write else draw(st.sampled_from([0, 0, 1, 5000])),
    )


class Case:
    """A shape with bytes: memory on a device, and what a file of it holds."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, self._starts = shape, shape.places()[0]
        self._before = noise(shape.places()[1], 1)
        self.arena = torch.frombuffer(bytearray(self._before), dtype=torch.uint8).to(device)
        self.extents = Extents.of(
            Extent(shape.base + start, self.arena[at : at + nbytes])
            for at, (start, nbytes) in zip(self._starts, shape.extents, strict=True)
        )

    def payload(self) -> bytearray:
        """Return what a write of the extents makes: zeros where none is."""
        payload = bytearray(self.shape.nbytes)
        for at, (start, nbytes) in zip(self._starts, self.shape.extents, strict=True):
            payload[start : start + nbytes] = self._before[at : at + nbytes]
        return payload

    def file_bytes(self, payload: bytes) -> bytearray:
        """Put a payload in a file; chunks that no extent touches hold something else."""
        shape, other = self.shape, noise(self.shape.nbytes, 3)
        data = bytearray(payload)
        step, touched = shape.chunk_nbytes, shape.touched()
        for index in range(len(shape.chunks)):
            if index not in touched:
                data[index * step : (index + 1) * step] = other[index * step : (index + 1) * step]
        return bytearray(noise(shape.base, 4)) + data + noise(shape.tail_nbytes, 5)

    def read(self, mover: Mover, path: Path, payload: bytes) -> None:
        """Read a file that holds the payload, and look at all memory, also beside the extents."""
        plan, source, moved = self.plan(payload), FileSource(path), list[int]()
        done = mover.backend.read(source, plan, progress=moved.append)
        source.close()
        self.check(mover, done, payload)
        assert sum(moved) == plan.nbytes

    def plan(self, payload: bytes) -> ReadPlan:
        digests = None
        if self.shape.has_digests:
            digests = Digests(self.shape.chunks, digests_of(payload, self.shape.chunk_nbytes))
        return ReadPlan(self.extents, digests)

    def check(self, mover: Mover, done: Transfer, payload: bytes) -> None:
        """Look at all memory, and at what the backend says that it did."""
        expected = bytearray(self._before)
        for at, (start, nbytes) in zip(self._starts, self.shape.extents, strict=True):
            expected[at : at + nbytes] = payload[start : start + nbytes]
        assert_same(bytes_in(self.arena), expected, f"memory after {mover} read")
        checked = len(self.shape.touched()) if self.shape.has_digests else 0
        assert done.chunks_checked == checked
        assert done.route

    def write(self, mover: Mover, path: Path, extents: Sequence[Extent] = ()) -> None:
        """Write the extents to a new file, and look at all of the file, the digests and memory."""
        plan = WritePlan(Extents.of(extents) if extents else self.extents, self.shape.chunks)
        fd, moved = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), list[int]()
        try:
            os.ftruncate(fd, self.shape.base + self.shape.nbytes)
            done = mover.backend.write(FileTarget(path, fd), plan, progress=moved.append)
        finally:
            os.close(fd)
        payload = self.payload()
        wanted = bytes(self.shape.base) + payload
        assert_same(path.read_bytes(), wanted, f"the file that {mover} wrote")
        assert list(done.digests) == digests_of(payload, self.shape.chunk_nbytes)
        assert sum(moved) == plan.nbytes
        assert_same(bytes_in(self.arena), self._before, f"memory after {mover} wrote")


def assert_same(found: bytes, wanted: bytes | bytearray, what: str) -> None:
    """Compare without a listing of megabytes where they differ."""
    if found == wanted:
        return
    pairs = zip(found, wanted, strict=False)
    first = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
    raise AssertionError(f"{what} differs from byte {first} ({len(found)}, {len(wanted)} bytes)")


def digests_of(payload: bytes | bytearray, chunk_nbytes: int) -> list[int]:
    """Compute the CRC32C of each chunk."""
    step = chunk_nbytes
    return [crc32c(bytes(payload[at : at + step])) for at in range(0, len(payload), step)]


def bytes_in(memory: torch.Tensor) -> bytes:
    """Copy 1-D uint8 memory of any device."""
    host = memory.cpu()
    return bytes(host_buffer(host))


def noise(nbytes: int, seed: int) -> bytes:
    """Return bytes that repeat nowhere near; others for another seed."""
    return bytes(_noise()[seed * 4099 :][:nbytes])


@cache
def _noise() -> memoryview:
    return memoryview(random.Random(0).randbytes(2 * _MAX_PAYLOAD_NBYTES))
