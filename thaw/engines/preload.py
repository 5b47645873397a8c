"""What a launcher imports ahead, and what its children then depend on."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.gpu_worker",
    "thaw.vllm.plugin",
)
"""What servers and engines of any model import."""
_UNRELATED = frozenset(
    {"_", "COLUMNS", "LINES", "LS_COLORS", "OLDPWD", "PWD", "SHLVL", "TERM", "XDG_RUNTIME_DIR"}
)
"""Variables that every shell sets otherwise, and that decide over nothing that is kept."""
_READ_BELOW = ("GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON")
"""Variables that are read by the interpreter, by the linker and by libraries when they begin."""
_NOT_INITIALIZED = 3
"""What the driver says in a child whose parent had initialized it."""
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What was imported.

    Attributes:
        environment: what the process was started with.
        read: names of variables that imports have read.
        files: of each module the file, as it was.
        installed: names of installed distributions, with their versions.
    """

    environment: Mapping[str, str]
    read: frozenset[str]
    files: Mapping[str, Stamp]
    installed: frozenset[str]
    elapsed_s: float

    def differs(self, environment: Mapping[str, str]) -> str | None:
        """Say why a process with another environment would have imported something else."""
        for name in sorted(self._deciding(environment)):
            ours, theirs = self.environment.get(name), environment.get(name)
            if ours != theirs:
                return f"{name} is {_shown(theirs)}, and was {_shown(ours)} when it was started"
        return None

    def changed(self) -> str | None:
        """Say what has been installed, removed or edited since."""
        if now := _installed() ^ self.installed:
            return f"what is installed has changed: {', '.join(sorted(now)[:3])}"
        for file, stamp in self.files.items():
            if _stamp(file) != stamp:
                return f"{file} has changed"
        return None

    def _deciding(self, environment: Mapping[str, str]) -> set[str]:
        known = self.environment.keys() | environment.keys()
        below = {name for name in known if name.startswith(_READ_BELOW)}
        return (set(self.read) | below) - _UNRELATED


def preload(modules: Sequence[str] = MODULES) -> Preloaded:
    """Import modules, and note what that depended on."""
    began = time.perf_counter()
    environment, installed = dict(os.environ), _installed()
    with _noting_reads() as read:
        for name in modules:
            importlib.import_module(name)
    files = {
        file: stamp
        for file in {getattr(each, "__file__", None) for each in list(sys.modules.values())}
        if file and (stamp := _stamp(file))
    }
    # What stays for ever is not to be looked through, and copied by that, in every child.
    gc.collect()
    gc.freeze()
    elapsed_s = time.perf_counter() - began
    return Preloaded(environment, frozenset(read), files, installed, elapsed_s)


def unfit() -> str | None:
    """Say why this process cannot be forked: a child could not use CUDA, or would lose threads."""
    torch = sys.modules.get("torch")
    child = os.fork()
    if not child:
        os._exit(_cuda_status())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _NOT_INITIALIZED or (torch is not None and torch.cuda.is_initialized()):
        return "CUDA was initialized by what it imported, perhaps by a plugin: no child can use it"
    if status < 0:
        return f"a child that initializes CUDA dies of signal {-status}"
    # Libraries that can be forked ended their threads then, and start them again when needed.
    names = [_text(f"/proc/self/task/{each}/comm") for each in os.listdir("/proc/self/task")]
    if len(names) > 1:
        return f"it has {len(names)} threads, which a fork would lose: {', '.join(sorted(names))}"
    return None


def _cuda_status() -> int:
    """Initialize CUDA, which ends for good that this process can be forked; return the result."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return min(int(driver.cuInit(0)), 255)


class _Noting(type(os.environ)):  # type: ignore[misc]
    """An environment that notes which variables are read, but for copies of all of them."""

    _noted: set[str]
    _listed: deque[str]

    def __getitem__(self, key: str) -> str:
        # A copy asks for all names, one by one or at once, and for their values in that order.
        if self._listed and self._listed[0] == key:
            self._listed.popleft()
        else:
            self._listed.clear()
            if isinstance(key, str):
                self._noted.add(key)
        found: str = super().__getitem__(key)
        return found

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            self._noted.add(key)
        return bool(super().__contains__(key))

    def __iter__(self) -> Iterator[str]:
        self._listed.clear()
        for key in super().__iter__():
            self._listed.append(key)
            yield key


@contextmanager
def _noting_reads() -> Iterator[set[str]]:
    noted: set[str] = set()
    before, environment = type(os.environ), os.environ
    environment.__class__ = _Noting
    environment._noted, environment._listed = noted, deque()  # type: ignore[attr-defined]
    try:
        yield noted
    finally:
        environment.__class__ = before


def _installed() -> frozenset[str]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return frozenset(
        each.name.removesuffix(".dist-info")
        for folder in folders
        for each in Path(folder).glob("*.dist-info")
    )


def _stamp(file: str) -> Stamp | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _text(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _shown(value: str | None) -> str:
    return "not set" if value is None else repr(value)
