"""Files opened by KvikIO, whose place a stand-in takes."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from thaw_format import TruncatedError

from thaw.errors import TransferError

pytest.importorskip("thaw_gds", reason="thaw-snapshot-gds is not installed")

from thaw_gds.files import KvikFile


class Opened:
    """What stands for KvikIO's file: it takes a given number of bytes, or raises."""

    outcome: int | BaseException = 0
    seen: ClassVar[list[tuple[str, str, object]]] = []

    def __init__(self, path: str, flags: str) -> None:
        self.seen.append((path, flags, sys.modules["kvikio"].mode))

    def raw_read(self, buffer: Any, nbytes: int, offset: int) -> int:
        data = buffer.__cuda_array_interface__
        assert data["data"] == (4096, False)
        assert data["shape"] == (nbytes,)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    raw_write = raw_read


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KvikFile]:
    kvikio, defaults = ModuleType("kvikio"), ModuleType("kvikio.defaults")

    @contextmanager
    def setting(values: dict[str, str]) -> Iterator[None]:
        kvikio.mode = values["compat_mode"]  # type: ignore[attr-defined]
        yield
        kvikio.mode = "AUTO"  # type: ignore[attr-defined]

    vars(kvikio).update(
        CuFile=Opened, CompatMode={"OFF": "off", "ON": "on"}, mode="AUTO", defaults=defaults
    )
    vars(defaults).update(set=setting)
    monkeypatch.setitem(sys.modules, "kvikio", kvikio)
    monkeypatch.setitem(sys.modules, "kvikio.defaults", defaults)
    monkeypatch.setattr(Opened, "seen", [])
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(1000))
    fd = os.open(path, os.O_RDONLY)
    yield KvikFile(path, fd, "r", "OFF")
    os.close(fd)


class TestFiles:
    def test_opens_the_descriptor_in_the_mode_and_puts_it_back(self, opened: KvikFile) -> None:
        [(path, flags, mode)] = Opened.seen
        assert path.startswith("/proc/self/fd/")
        assert (flags, mode) == ("r", "off")
        assert sys.modules["kvikio"].mode == "AUTO"

    @pytest.mark.parametrize("outcome", [0, 99, RuntimeError("EOF"), OSError("EIO")])
    def test_tells_the_end_of_the_file_from_other_failures(
        self, opened: KvikFile, monkeypatch: Any, outcome: object
    ) -> None:
        monkeypatch.setattr(Opened, "outcome", outcome)
        with pytest.raises(TruncatedError):
            opened.read(4096, 100, 901)
        with pytest.raises(TransferError) as caught:
            opened.read(4096, 100, 900)
        assert (caught.value.offset, caught.value.nbytes) == (900, 100)

    def test_tells_a_full_disk_from_other_failures(
        self, opened: KvikFile, monkeypatch: Any
    ) -> None:
        full = RuntimeError(f"pwrite: {os.strerror(errno.ENOSPC)}")
        monkeypatch.setattr(Opened, "outcome", full)
        with pytest.raises(OSError, match="space") as caught:
            opened.write(4096, 100, 0)
        assert caught.value.errno == errno.ENOSPC
        for outcome in (RuntimeError("Input/output error"), 50):
            monkeypatch.setattr(Opened, "outcome", outcome)
            with pytest.raises(TransferError):
                opened.write(4096, 100, 0)
        monkeypatch.setattr(Opened, "outcome", 100)
        opened.write(4096, 100, 0)

    @pytest.mark.parametrize("outcome", [50, RuntimeError("something")])
    def test_finds_a_limit_that_kvikio_does_not_name(
        self, tmp_path: Path, opened: KvikFile, monkeypatch: Any, outcome: object
    ) -> None:
        monkeypatch.setattr(Opened, "outcome", outcome)
        fd = os.open(tmp_path / "data.bin", os.O_RDWR)
        file = KvikFile(tmp_path / "data.bin", fd, "r+", "OFF")
        _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
        try:
            with pytest.raises(TransferError):
                file.write(4096, 100, 9000)
            with pytest.raises(OSError, match="large") as caught:
                file.write(4096, 100, 9950)
            assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            os.close(fd)
