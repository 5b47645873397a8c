"""The native backend against the kit, on every device and by every way that it has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from mmap import PAGESIZE, PROT_READ, mmap
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import thaw
from thaw.bench.memory import drop, resident_pages
from thaw.testing import BackendTests

thaw_native = pytest.importorskip("thaw_native")
HERE = Path(__file__).parent


class TestNativeOnTheHost(BackendTests):
    device = "cpu"
    settings: ClassVar[Mapping[str, Any]] = {}

    def make_backend(self) -> Any:
        return thaw_native.NativeBackend(**self.settings)


class TestNativeAroundThePageCache(TestNativeOnTheHost):
    settings: ClassVar[Mapping[str, Any]] = {"io": "direct"}


class TestNativeThroughThePageCache(TestNativeOnTheHost):
    settings: ClassVar[Mapping[str, Any]] = {"io": "buffered"}


class TestNativeInSmallPieces(TestNativeOnTheHost):
    settings: ClassVar[Mapping[str, Any]] = {"piece_nbytes": 4096, "threads": 3}


@pytest.mark.gpu
class TestNativeOnTheDevice(TestNativeOnTheHost):
    device = "cuda"


class TestNativeOnTheDeviceAroundThePageCache(TestNativeOnTheDevice):
    settings: ClassVar[Mapping[str, Any]] = {"io": "direct", "slots": 3}


class TestNativeOnTheDeviceInSmallPieces(TestNativeOnTheDevice):
    settings: ClassVar[Mapping[str, Any]] = {"piece_nbytes": 4096, "threads": 3}


class TestNativeWithDigestsOnTheHost(TestNativeOnTheDevice):
    settings: ClassVar[Mapping[str, Any]] = {"digests": "host", "share_nbytes": 4096}


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the stand-in for the CUDA driver."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("driver")
    options = ["-O1", "-std=c++20", "-shared", "-fPIC", "-pthread"]
    made = [*options, "-o", str(folder / "libcuda.so.1"), str(HERE / "fake_cuda.cpp")]
    subprocess.run(["g++", *made], check=True)
    return folder


def run_on(driver: Path, seed: int, count: int, refuses: str = "") -> Any:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_REFUSES": refuses}
    command = [sys.executable, str(HERE / "on_fake_cuda.py"), str(seed), str(count)]
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(command, check=False, **options)


@pytest.mark.parametrize("seed", range(1, 5))
def test_transfers_through_a_driver_that_works_late(fake_driver: Path, seed: int) -> None:
    done = run_on(fake_driver, seed, 25)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_pinned_source_is_not_left_unchecked(fake_driver: Path) -> None:
    program = """
import ctypes, tempfile
from array import array
from thaw_native import _native
memory = ctypes.create_string_buffer(4096)
address = ctypes.addressof(memory)
settings = _native.Settings(1, 4096, 4096, 1, "auto", False)
with tempfile.TemporaryFile() as file:
    file.truncate(4096)
    one = array("q", [0]), array("q", [address]), array("q", [4096])
    files = [(file.fileno(), 4096, one)]
    digests = (0, 4096, 4096), [0]
    asked = {"device": (0, b""), "pinned": address, "digests": digests}
    _native.read(_native.ReadRequest(files=files, settings=settings, **asked))
"""
    environment = os.environ | {"LD_LIBRARY_PATH": str(fake_driver)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ValueError: what comes from page-locked memory is checked" in done.stderr


def test_a_forked_process_has_a_pool_of_its_own(fake_driver: Path, tmp_path: Path) -> None:
    program = f"""
import ctypes, os, sys, threading
from array import array
from thaw_native import _native
nbytes = 256 << 20
memory = ctypes.create_string_buffer(nbytes)
settings = _native.Settings(2, 32 << 20, 1 << 20, 12, "buffered", True)
file = open({str(tmp_path / "payload")!r}, "w+b")
file.truncate(nbytes)
forked = []
def fork(moved):
    # All of the pool is on loan now.
    if not forked:
        forked.append(os.fork())
        if not forked[0]:
            direct = _native.Settings(2, 1 << 20, 1 << 20, 2, "direct", True)
            read(direct, None)
            os._exit(0)
def read(settings, progress):
    extents = [array("q", [n]) for n in (1, ctypes.addressof(memory) + 1, nbytes - 1)]
    device = None if progress is None else (0, b"")
    files = [(file.fileno(), nbytes, tuple(extents))]
    request = _native.ReadRequest(files=files, settings=settings, device=device)
    _native.read(request, progress)
read(settings, fork)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]))
"""
    environment = os.environ | {"LD_LIBRARY_PATH": str(fake_driver)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("call", ["cuMemHostRegister", "cuMemAllocAsync", "cuMemcpyHtoDAsync"])
def test_a_driver_that_refuses_is_an_error_and_no_hang(fake_driver: Path, call: str) -> None:
    done = run_on(fake_driver, 1, 5, refuses=call)
    assert done.returncode == 1
    assert f"{call} failed: CUDA_ERROR_FAKE" in done.stderr


def test_a_device_without_memory_pools_is_not_available(fake_driver: Path) -> None:
    program = "from thaw_native import _native; print(_native.obstacle(0))"
    environment = os.environ | {"LD_LIBRARY_PATH": str(fake_driver)}
    for refuses, said in (("", "None\n"), ("memory pools", "the device has no memory pools")):
        told = environment | {"FAKE_CUDA_REFUSES": refuses}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": -1}, "negative"),
        ({"threads": 0}, "at least 1"),
        ({"piece_nbytes": 5000}, "powers of two"),
        ({"share_nbytes": 0}, "powers of two"),
        ({"io": "sideways"}, "'auto', 'buffered' or 'direct'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, settings: Any, message: str) -> None:
    thaw.freeze({"a": torch.ones(3)}, tmp_path / "a.thaw", backend="reference")
    with pytest.raises((ValueError, OverflowError), match=message):
        thaw.restore(tmp_path / "a.thaw", backend=thaw_native.NativeBackend(**settings))


def test_a_thread_that_cannot_start_is_an_error_and_no_hang(tmp_path: Path) -> None:
    thaw.freeze({"a": torch.ones(9_000_000)}, tmp_path / "a.thaw", backend="reference")
    program = f"""
import resource, torch, thaw, thaw_native
from pathlib import Path
held = {{"a": torch.zeros(9_000_000)}}
thaw.restore("{tmp_path / "a.thaw"}", into=held, backend="native")
size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), size + (64 << 20)))
backend = thaw_native.NativeBackend(threads=500, piece_nbytes=4096)
try:
    thaw.restore("{tmp_path / "a.thaw"}", into=held, backend=backend)
except thaw.TransferError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "starting a thread failed" in done.stdout, done.stderr


def test_auto_takes_it_and_the_report_says_so(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(1_000_000)}
    assert thaw.freeze(tensors, tmp_path / "a.thaw").backend == "native"
    restored = thaw.restore(tmp_path / "a.thaw")
    assert (restored.report.backend, restored.report.chunks_checked) == ("native", 2)
    assert torch.equal(restored["a"], tensors["a"])


def test_a_cold_file_is_read_around_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "a.thaw"
    thaw.freeze({"a": torch.arange(4_000_000)}, path, backend="reference")
    way = thaw.restore(path, backend="native").report.route
    # Where memory is short, the kernel may have dropped what was just written.
    assert way == "buffered" or resident_share(path) < 0.9
    evict(path)
    assert thaw.restore(path, backend="native").report.route in ("io_uring", "direct")


def resident_share(path: Path) -> float:
    with path.open("rb") as file:
        return resident_pages(file.fileno()) * PAGESIZE / path.stat().st_size


EVICTIONS = 50


def evict(path: Path) -> None:
    """Have the file's bytes on the device alone; skip where they cannot be read from there."""
    for _ in range(EVICTIONS):
        # Pages that the kernel is busy with stay.
        with suppress(OSError):
            drop(path)
            break
        time.sleep(0.1)
    else:
        pytest.skip("pages of the file stay in memory")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system has no direct I/O")


RESTORING = """
import os, sys, thaw
snapshot, user = thaw.open(sys.argv[1]), int(sys.argv[2])
# What is imported when it is first used may be out of another user's reach.
thaw.restore, thaw.backends()
if user:
    os.setgid(user)
    os.setuid(user)
print(thaw.restore(snapshot, backend="native").report.route)
"""


def way_of(path: Path, user: int) -> str:
    """Restore as a user in another process; return the way that the bytes took."""
    command = [sys.executable, "-c", RESTORING, str(path), str(user)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", [0, 65534])
def test_whoever_owns_a_file_it_is_seen_to_be_cold(tmp_path: Path, user: int) -> None:
    path = tmp_path / "a.thaw"
    thaw.freeze({"a": torch.arange(4_000_000)}, path, backend="reference")
    path.chmod(0o644)
    evict(path)
    # Where memory is short, some pages may be back before their turn.
    assert way_of(path, user).split("+")[0] in ("io_uring", "direct")
    path.read_bytes()
    assert way_of(path, user) == "buffered"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_that_cannot_but_wait(tmp_path: Path) -> None:
    """One that has no reads without waiting, as an overlay: the mapping of a file of ours tells."""
    folders = [tmp_path / name for name in ("lower", "upper", "work", "merged")]
    for folder in folders:
        folder.mkdir()
    lower, upper, work, merged = folders
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no mount allowed here")
    try:
        path = merged / "a.thaw"
        thaw.freeze({"a": torch.arange(4_000_000)}, path, backend="reference")
        assert way_of(path, 0) == "buffered"
        evict(upper / "a.thaw")
        assert way_of(path, 0) in ("io_uring", "direct")
    finally:
        subprocess.run(["umount", str(merged)], check=True)


@pytest.mark.parametrize("io", ["buffered", "direct"])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_memory_that_cannot_be_written_to_is_an_error(tmp_path: Path, io: str) -> None:
    tensors = {"a": torch.arange(1_000_000), "b": torch.arange(5)}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    (tmp_path / "b").write_bytes(bytes(4096))
    with (tmp_path / "b").open("rb") as file:
        memory = mmap(file.fileno(), 40, prot=PROT_READ)
    into = {"a": torch.zeros(1_000_000, dtype=torch.int64)}
    into["b"] = torch.frombuffer(memory, dtype=torch.int64)
    backend = thaw_native.NativeBackend(io=io)
    with pytest.raises(thaw.TransferError, match="Bad address"):
        thaw.restore(tmp_path / "a.thaw", into=into, backend=backend)
    assert not into["b"].any()


def test_a_file_in_memory_is_read_through_the_page_cache() -> None:
    path = Path("/dev/shm", f"thaw-test-{os.getpid()}.thaw")
    try:
        thaw.freeze({"a": torch.arange(4_000_000)}, path, backend="native")
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert thaw.restore(path, backend="native").report.route == "buffered"
    finally:
        path.unlink(missing_ok=True)
