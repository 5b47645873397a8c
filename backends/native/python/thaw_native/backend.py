"""The backend as thaw sees it: settings, devices, and errors; the bytes are Rust's affair."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Literal, NoReturn, TypeAlias

import torch

from thaw import (
    Backend,
    Chunks,
    Extents,
    HasDescriptor,
    HasLockedPages,
    Progress,
    Read,
    ReadPlan,
    Source,
    Support,
    Target,
    Transfer,
    TransferError,
    WritePlan,
    format_error,
    wait_for_caller,
)
from thaw.cuda import PTX

from . import _native

Io: TypeAlias = Literal["auto", "buffered", "direct"]
Place: TypeAlias = Literal["auto", "device", "host"]

_MIB = 1 << 20
_MAX_CORES = 16
_SHARE_NBYTES = 512 << 10


class NativeBackend(Backend):
    """Moves bytes with Rust threads; serves host memory, and CUDA memory where there is a driver.

    Args:
        threads: how many move bytes at once; one for each core, up to 16, if not given. In a read
            to a device one of them, at least, only talks to the driver.
        piece_nbytes: how much is moved at once, a power of two of at least 4096. To a device, all
            threads fill a piece together; else each moves its own.
        share_nbytes: how much of a piece on its way to a device one thread reads at once, a power
            of two of at least 4096.
        slots: how many pieces are on their way to a device, or, of one thread, from a device.
        io: "buffered" goes through the page cache, "direct" around it where the file system allows
            that; "auto" looks for each piece whether it is in the cache.
        digests: where chunks are checked that go to a device: on the "device", where the bytes
            landed, or on the "host", on their way; "auto" is the device. What is written is
            digested on the host, where it is written from.
    """

    name = "native"

    def __init__(
        self,
        *,
        threads: int | None = None,
        piece_nbytes: int | None = None,
        share_nbytes: int | None = None,
        slots: int | None = None,
        io: Io = "auto",
        digests: Place = "auto",
    ) -> None:
        self._threads, self._slots = threads, slots
        self._piece_nbytes, self._share_nbytes = piece_nbytes, share_nbytes
        self._io, self._digests = io, digests

    def probe(self, device: torch.device) -> Support:
        if device.type == "cpu":
            return Support(True, "parallel reads and writes of host memory", "host")
        if device.type != "cuda":
            return Support(False, f"devices of type {device.type!r} are not supported")
        if not torch.cuda.is_available():
            return Support(False, _native.obstacle(0) or "torch sees no CUDA device")
        obstacle = _native.obstacle(device.index or 0)
        if obstacle:
            return Support(False, obstacle)
        return Support(True, "parallel reads through page-locked memory", "device")

    def serves(self, source: Source) -> bool:
        return isinstance(source, HasDescriptor)

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        return self._read([(source, plan)], progress)

    def read_all(
        self, reads: Sequence[Read], *, progress: Progress | None = None
    ) -> list[Transfer]:
        """Read files without digests as if they were one; all others one after the other."""
        apart = any(plan.digests or _pinned(source) is not None for source, plan in reads)
        if apart or len(reads) < 2:
            return super().read_all(reads, progress=progress)
        return [self._read(reads, progress)] * len(reads)

    def _read(self, reads: Sequence[Read], progress: Progress | None) -> Transfer:
        """Read several sources only if none is pinned and none has digests."""
        ordinal = _ready([plan.extents for _, plan in reads])
        source, plan = reads[0]
        pinned, digests = None, plan.digests
        if ordinal is not None and self._digests != "host":
            pinned = _pinned(source)
        files = [(_descriptor(each), each.nbytes, _columns(plan.extents)) for each, plan in reads]
        request = _native.ReadRequest(
            files=files,
            settings=self._settings(ordinal, reading=True, pinned=pinned is not None),
            device=_device(ordinal),
            pinned=pinned,
            digests=(_triple(digests.chunks), digests.values) if digests else None,
        )
        try:
            route, checked = _native.read(request, progress)
        except _native.NativeError as error:
            _raise_read_error(error, [source for source, _ in reads])
        return Transfer(route, chunks_checked=checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        ordinal = _ready([plan.extents])
        there, here = plan.extents.apart()
        request = _native.WriteRequest(
            fd=_descriptor(target),
            extents=_columns(there),
            chunks=_triple(plan.chunks),
            settings=self._settings(ordinal, reading=False, pinned=False),
            device=_device(ordinal),
            on_host=_columns(here),
        )
        try:
            route, crcs = _native.write(request, progress)
        except _native.NativeError as error:
            _raise_write_error(error, target)
        return Transfer(route, digests=tuple(crcs))

    def _settings(self, ordinal: int | None, *, reading: bool, pinned: bool) -> _native.Settings:
        threads, piece_nbytes, slots = _choose(ordinal, reading=reading, pinned=pinned)
        return _native.Settings(
            _given(self._threads, threads),
            _given(self._piece_nbytes, piece_nbytes),
            _given(self._share_nbytes, _SHARE_NBYTES),
            _given(self._slots, slots),
            self._io,
            self._digests != "host",
        )


def _choose(ordinal: int | None, *, reading: bool, pinned: bool) -> tuple[int, int, int]:
    """Choose threads, bytes of a piece, and slots; benchmarks/notes.md has the measurements."""
    cores = min(len(os.sched_getaffinity(0)), _MAX_CORES)
    if ordinal is None:
        return cores, _MIB if reading else 4 * _MIB, 1
    if pinned:
        return 1, 16 * _MIB, 1
    if reading:
        return cores, 8 * _MIB, 8
    return min(cores, 8), 4 * _MIB, 2


def _given(setting: int | None, default: int) -> int:
    return default if setting is None else setting


def _device(ordinal: int | None) -> tuple[int, bytes] | None:
    return None if ordinal is None else (ordinal, _ptx())


@functools.cache
def _ptx() -> bytes:
    return PTX.read_bytes()


def _ready(extents: Sequence[Extents]) -> int | None:
    """Return the CUDA device of extents, None for the host, once it is the transfer's turn."""
    devices = {each.device for each in extents}
    wait_for_caller(devices)
    return next((device.index for device in devices if device.type == "cuda"), None)


def _pinned(source: Source) -> int | None:
    """Return the address of a source that lies in page-locked memory."""
    return source.locked_address() if isinstance(source, HasLockedPages) else None


def _descriptor(file: Source | Target) -> int:
    if isinstance(file, HasDescriptor):
        return file.fileno()
    raise TransferError(
        f"backend 'native' moves local files, not {type(file).__name__}",
        path=file.path,
        offset=0,
        nbytes=0,
    )


def _columns(extents: Extents) -> _native.Columns:
    return extents.offsets, extents.addresses, extents.sizes


def _triple(chunks: Chunks) -> tuple[int, int, int]:
    return chunks.offset, chunks.nbytes, chunks.chunk_nbytes


def _raise_read_error(error: _native.NativeError, sources: Sequence[Source]) -> NoReturn:
    kind, message, file, offset, nbytes, _ = error.args
    codes = {"checksum": "chunk-checksum", "truncated": "truncated-file"}
    path = sources[file].path
    if kind in codes:
        raise format_error(codes[kind], message, path=path, offset=offset) from None
    raise TransferError(message, path=path, offset=offset, nbytes=nbytes) from None


def _raise_write_error(error: _native.NativeError, target: Target) -> NoReturn:
    kind, message, _, offset, nbytes, errno = error.args
    if kind == "io":
        raise OSError(errno, os.strerror(errno), os.fspath(target.path)) from None
    raise TransferError(message, path=target.path, offset=offset, nbytes=nbytes) from None
