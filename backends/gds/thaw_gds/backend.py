"""The backends `gds` and `gds-compat`: one engine, two promises about the route of the bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from thaw import (
    Backend,
    Extent,
    Extents,
    HasDescriptor,
    Progress,
    ReadPlan,
    Source,
    Support,
    Target,
    Transfer,
    TransferError,
    UnavailableBackendError,
    WritePlan,
)

from . import probing, transfer
from .devices import CudaDevice
from .files import KvikFile


class _KvikioBackend(Backend):
    """Moves bytes between files and device memory through KvikIO.

    Args:
        threads: how many reads or writes are under way at a time.
        piece_nbytes: the most bytes of one; a multiple of 4096.
    """

    compat_mode: ClassVar[str]
    """The member of `kvikio.CompatMode` in which files are opened."""

    way: ClassVar[str]
    """How bytes move, for `probe`."""

    def __init__(self, *, threads: int = 16, piece_nbytes: int = 4 << 20) -> None:
        self._settings = transfer.Settings(threads, piece_nbytes)

    @abstractmethod
    def _obstacle(self) -> str:
        """Say what else keeps bytes from taking this backend's path."""

    def probe(self, device: torch.device) -> Support:
        obstacle = (
            (device.type != "cuda" and probing.without_device(device))
            or probing.without_packages()
            or probing.without_device(device)
            or self._obstacle()
        )
        if obstacle:
            return Support(False, obstacle)
        return Support(True, self.way, self.name)

    def serves(self, source: Source) -> bool:
        return isinstance(source, HasDescriptor)

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        if not plan.extents:
            return Transfer(self.name)
        fd = self._fileno(source, plan.extents)
        with self._opened(source.path, fd, "r", plan.extents) as (device, file):
            checked = transfer.read(device, file, plan, source.path, self._settings, progress)
        return Transfer(self.name, chunks_checked=checked)

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        if not plan.chunks.nbytes:
            return Transfer(self.name)
        plan = _brought_together(plan)
        fd = self._fileno(target, plan.extents)
        with self._opened(target.path, fd, "r+", plan.extents) as (device, file):
            digests = transfer.write(device, file, plan, self._settings, progress)
        return Transfer(self.name, digests=digests)

    def _fileno(self, file: Source | Target, extents: Extents) -> int:
        if not isinstance(file, HasDescriptor):
            start, end = extents.span
            raise TransferError(
                f"backend {self.name!r} moves open files, not a {type(file).__name__}; "
                'use another, such as backend="reference"',
                path=file.path,
                offset=start,
                nbytes=end - start,
            )
        return file.fileno()

    @contextmanager
    def _opened(
        self, path: Path, fd: int, flags: str, extents: Extents
    ) -> Iterator[tuple[CudaDevice, KvikFile]]:
        where = extents.device if extents else torch.device("cuda")
        support = self.probe(where)
        if not support.available:
            raise UnavailableBackendError(self.name, where, support.reason)
        device = self._use(where)
        with device.current():
            try:
                file = KvikFile(path, fd, flags, self.compat_mode)
            except (RuntimeError, OSError) as error:
                reason = f"KvikIO cannot open {path} in this mode: {error}"
                raise UnavailableBackendError(self.name, where, reason) from error
            try:
                yield device, file
            finally:
                file.close()

    def _use(self, device: torch.device) -> CudaDevice:
        return CudaDevice(device)


def _brought_together(plan: WritePlan) -> WritePlan:
    """Copy what lies on the host to the device that holds the rest, from where it is written."""
    if not plan.extents.on_host:
        return plan
    moved = (Extent(each.offset, each.memory.to(plan.extents.device)) for each in plan.extents)
    return replace(plan, extents=Extents.of(moved))


class GdsBackend(_KvikioBackend):
    """Moves bytes by DMA between storage and device memory, or not at all.

    Args:
        nvidia_fs: where the kernel module nvidia-fs shows that it is loaded.
        cufile_json: cuFile's configuration, if not where cuFile looks for it.
    """

    name = "gds"
    compat_mode = "OFF"
    way = "DMA between storage and device memory"

    def __init__(
        self,
        *,
        threads: int = 16,
        piece_nbytes: int = 16 << 20,
        nvidia_fs: Path = probing.NVIDIA_FS,
        cufile_json: Path | None = None,
    ) -> None:
        super().__init__(threads=threads, piece_nbytes=piece_nbytes)
        self._nvidia_fs, self._cufile_json = nvidia_fs, cufile_json

    def _obstacle(self) -> str:
        return probing.without_gds(self._nvidia_fs, self._cufile_json) or probing.without_library(
            cufile=True
        )


class GdsCompatBackend(_KvikioBackend):
    """Moves bytes by POSIX reads and writes through KvikIO's page-locked bounce buffers."""

    name = "gds-compat"
    automatic = False
    compat_mode = "ON"
    way = "POSIX reads and writes through KvikIO's page-locked bounce buffers"

    def _obstacle(self) -> str:
        return probing.without_library(cufile=False)
