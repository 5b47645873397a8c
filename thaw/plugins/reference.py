"""The reference backend: torch, positional reads and writes, a few threads. It defines right."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar, cast

import torch
from thaw_format import Source, Target, format_error
from thaw_format.checksum import HostBuffer, extend, host_buffer

from ..errors import TransferError
from ..seam.backend import Backend, Progress, Support, Transfer
from ..seam.ordering import wait_for_caller
from ..seam.plan import Extents, ReadPlan, WritePlan

_PIECE_NBYTES = 4 << 20
_T = TypeVar("_T")


class _Span(NamedTuple):
    """A run of the file that one thread moves; the CRC32C of a chunk, if it is one."""

    start: int
    end: int
    expected: int | None


class _Part(NamedTuple):
    """A run of memory within a piece; None where no extent wants the bytes."""

    nbytes: int
    memory: torch.Tensor | None


class ReferenceBackend(Backend):
    """Reads and writes host memory in place, and device memory through a bounce buffer."""

    name = "reference"

    def __init__(self, *, threads: int = 3, piece_nbytes: int = _PIECE_NBYTES) -> None:
        self._threads, self._piece_nbytes = threads, piece_nbytes

    def probe(self, device: torch.device) -> Support:
        if device.type == "cpu":
            return Support(True, "positional reads into host memory", "host")
        if device.type == "cuda":
            if not torch.cuda.is_available():
                return Support(False, "torch sees no CUDA device")
            if (device.index or 0) >= torch.cuda.device_count():
                return Support(False, f"torch sees {torch.cuda.device_count()} CUDA devices")
            return Support(True, "reads into host memory, then copies", "host-bounce")
        return Support(False, f"devices of type {device.type!r} are not supported")

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        spans = list(_read_spans(plan, self._piece_nbytes))
        pieces = _Pieces(plan.extents, self._piece_nbytes)

        def move(span: _Span) -> None:
            crc = 0
            for offset, parts in pieces.of(span):
                crc = _read_piece(source, offset, parts, crc, check=span.expected is not None)
                if progress:
                    progress(sum(part.nbytes for part in parts if part.memory is not None))
            if span.expected is not None and crc != span.expected:
                raise format_error(
                    "chunk-checksum",
                    f"a chunk's CRC32C is {crc:08x}, expected {span.expected:08x}",
                    path=source.path,
                    offset=span.start,
                )

        wait_for_caller([plan.extents.device])
        _run(move, spans, self._threads)
        checked = len(spans) if plan.digests else 0
        return Transfer(_route(plan.extents), chunks_checked=checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        spans = [_Span(*plan.chunks.span(index), None) for index in range(len(plan.chunks))]
        pieces = _Pieces(plan.extents, self._piece_nbytes)

        def move(span: _Span) -> int:
            crc = 0
            for offset, parts in pieces.of(span):
                buffers = _gather(parts)
                for buffer in buffers:
                    crc = extend(crc, buffer)
                target.write_from(offset, buffers)
                if progress:
                    progress(sum(part.nbytes for part in parts if part.memory is not None))
            return crc

        wait_for_caller([plan.extents.device])
        digests = _run(move, spans, self._threads)
        return Transfer(_route(plan.extents), digests=tuple(digests))


class _Pieces:
    """Cuts spans into pieces, and pieces into the memory that they belong to."""

    def __init__(self, extents: Extents, piece_nbytes: int) -> None:
        self._extents, self._piece_nbytes = extents, piece_nbytes

    def of(self, span: _Span) -> Iterator[tuple[int, list[_Part]]]:
        for start in range(span.start, span.end, self._piece_nbytes):
            yield start, list(self._parts(start, min(start + self._piece_nbytes, span.end)))

    def _parts(self, start: int, end: int) -> Iterator[_Part]:
        index = max(0, bisect_right(self._extents.offsets, start) - 1)
        while start < end and index < len(self._extents):
            extent = self._extents[index]
            if extent.offset > start:
                yield _Part(min(extent.offset, end) - start, None)
                start = min(extent.offset, end)
            stop = min(extent.end, end)
            if stop > start:
                yield _Part(
                    stop - start, extent.memory[start - extent.offset : stop - extent.offset]
                )
                start = stop
            index += 1
        if start < end:
            yield _Part(end - start, None)


def _read_spans(plan: ReadPlan, piece_nbytes: int) -> Iterator[_Span]:
    if plan.digests is None:
        for extent in plan.extents:
            for start in range(extent.offset, extent.end, piece_nbytes):
                yield _Span(start, min(start + piece_nbytes, extent.end), None)
        return
    chunks, next_index = plan.digests.chunks, 0
    for extent in plan.extents:
        first = max(next_index, (extent.offset - chunks.offset) // chunks.chunk_nbytes)
        next_index = (extent.end - 1 - chunks.offset) // chunks.chunk_nbytes + 1
        for index in range(first, next_index):
            yield _Span(*chunks.span(index), plan.digests.values[index])


def _read_piece(source: Source, offset: int, parts: list[_Part], crc: int, *, check: bool) -> int:
    bounce = [
        part.memory
        if part.memory is not None and part.memory.device.type == "cpu"
        else torch.empty(part.nbytes, dtype=torch.uint8, device="cpu")
        for part in parts
    ]
    buffers = [host_buffer(memory) for memory in bounce]
    try:
        source.read_into(offset, buffers)
    except OSError as error:
        nbytes = sum(part.nbytes for part in parts)
        message = f"reading failed: {error}"
        raise TransferError(message, path=source.path, offset=offset, nbytes=nbytes) from error
    if check:
        for buffer in buffers:
            crc = extend(crc, buffer)
    for part, memory in zip(parts, bounce, strict=True):
        if part.memory is not None and part.memory is not memory:
            part.memory.copy_(memory)
    return crc


def _gather(parts: list[_Part]) -> list[HostBuffer]:
    """Copy parts: file and digest are of the copy, though the memory may change meanwhile."""
    buffers = []
    for part in parts:
        if part.memory is None:
            memory = torch.zeros(part.nbytes, dtype=torch.uint8, device="cpu")
        else:
            memory = part.memory.to("cpu", copy=True)
        buffer = host_buffer(memory)
        buffer._owner = memory  # type: ignore[attr-defined]
        buffers.append(buffer)
    return buffers


def _route(extents: Extents) -> str:
    return "host" if extents.device.type == "cpu" else "host-bounce"


def _run(move: Callable[[_Span], _T], spans: list[_Span], threads: int) -> list[_T]:
    """Move every span, in order, on a few threads; the first error stops the rest."""
    stop = threading.Event()

    def guarded(span: _Span) -> _T | None:
        if stop.is_set():
            return None
        try:
            return move(span)
        except BaseException:
            stop.set()
            raise

    if len(spans) < 2:
        return [move(span) for span in spans]
    with ThreadPoolExecutor(min(threads, len(spans)), "thaw") as pool:
        futures = [pool.submit(guarded, span) for span in spans]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in futures:
        if (error := future.exception()) is not None:
            raise error
    return cast("list[_T]", [future.result() for future in futures])
