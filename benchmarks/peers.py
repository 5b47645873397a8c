"""Other loaders and savers, each as its documentation says, at its default and its best setting.

Nothing here imports thaw: one of the peers installs an import package of that name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from llama import Shapes, allocate, shard_files, shard_views

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Load: TypeAlias = Callable[[], Tensors]


@dataclass(frozen=True, slots=True)
class Job:
    """What to load: a checkpoint folder or a file, onto which device, and its shapes."""

    path: Path
    device: torch.device
    shapes: Shapes

    @property
    def shards(self) -> list[str]:
        return [str(each) for each in shard_files(self.path)]


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to call a peer.

    Attributes:
        prepare: imports the peer and returns what loads the tensors; not timed.
        environment: variables the peer documents.
        into: whether the destination is there before the clock starts.
        note: what the row says of it.
    """

    prepare: Callable[[Job], Load]
    environment: Mapping[str, str] = field(default_factory=dict)
    into: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A loader: its distribution, the file it reads, its settings, and how it saves, if it does."""

    distribution: str
    file: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    save: Callable[[Tensors, Path], None] | None = None

    def version(self) -> str:
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "unknown"


def _safetensors(job: Job) -> Load:
    from safetensors.torch import load_file

    def load() -> Tensors:
        found: dict[str, torch.Tensor] = {}
        for shard in job.shards:
            found |= load_file(shard, device=str(job.device))
        return found

    return load


def _save_safetensors(tensors: Tensors, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), path)


def _fastsafetensors(job: Job, *, inflight: bool, **options: Any) -> Load:
    module: Any = importlib.import_module("fastsafetensors")

    def load() -> Tensors:
        loader = module.SafeTensorsFileLoader(None, device=str(job.device), **options)
        with closing(loader):
            loader.add_filenames({0: job.shards})
            buffer = loader.copy_files_to_device(allow_inflight=inflight)
            with closing(buffer):
                return {name: buffer.get_tensor(name) for name in loader.get_keys()}

    return load


def _instanttensor(job: Job, *, backend: str | None = None) -> Load:
    module: Any = importlib.import_module("instanttensor")
    chosen = module.Backend[backend] if backend else None

    def load() -> Tensors:
        opened = module.safe_open(
            job.shards, framework="pt", device=job.device.index or 0, backend=chosen
        )
        with opened as file:
            return dict(file.tensors())

    return load


def _instanttensor_into(job: Job) -> Load:
    module: Any = importlib.import_module("instanttensor")
    into = allocate(job.shapes, job.device)

    def load() -> Tensors:
        opened = module.safe_open(
            job.shards, framework="pt", device=job.device.index or 0, copy=False
        )
        with opened as file:
            for name, tensor in file.tensors():
                into[name].copy_(tensor)
        return into

    return load


def _runai(job: Job) -> Load:
    module: Any = importlib.import_module("runai_model_streamer")

    def load() -> Tensors:
        with module.SafetensorsStreamer() as streamer:
            streamer.stream_files(job.shards)
            # A copy even where the device is the host: the streamer uses its buffer again.
            return {
                name: tensor.to(job.device, copy=True) for name, tensor in streamer.get_tensors()
            }

    return load


def _kvikio(job: Job) -> Load:
    module: Any = importlib.import_module("kvikio")

    def load() -> Tensors:
        shards = shard_files(job.path)
        sizes = [-(-shard.stat().st_size // 4096) * 4096 for shard in shards]
        buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=job.device)
        parts = torch.split(buffer, sizes)
        for shard, part in zip(shards, parts, strict=True):
            with module.CuFile(shard, "r") as file:
                file.read(part, shard.stat().st_size)
        found: dict[str, torch.Tensor] = {}
        for shard, part in zip(shards, parts, strict=True):
            found |= shard_views(part, shard)
        return found

    return load


def _torch(job: Job, **options: Any) -> Load:
    def load() -> Tensors:
        found: Tensors = torch.load(job.path, map_location=job.device, weights_only=True, **options)
        return found

    return load


def _save_torch(tensors: Tensors, path: Path) -> None:
    torch.save(dict(tensors), path)


class _Model(torch.nn.Module):
    """Parameters under their names, as the other thaw wants them."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name.replace(".", "/"), parameter)


def _thaw_vllm_module() -> Any:
    native: Any = importlib.import_module("thaw")
    if not hasattr(native, "restore_from_file_pipelined"):
        raise ImportError("the import package thaw is not that of thaw-native")
    return importlib.import_module("thaw_common.snapshot")


def _thaw_vllm(job: Job, **options: Any) -> Load:
    module, into = _thaw_vllm_module(), allocate(job.shapes, job.device)
    model = _Model(into)

    def load() -> Tensors:
        module.restore_model_pipelined(model, str(job.path), **options)
        return into

    return load


def _thaw_vllm_pinned(job: Job) -> Load:
    module, into = _thaw_vllm_module(), allocate(job.shapes, job.device)
    model, pinned = _Model(into), module.make_pinned_mmap(str(job.path))

    def load() -> Tensors:
        module.restore_model_from_pinned_mmap(model, pinned)
        return into

    return load


def _save_thaw_vllm(tensors: Tensors, path: Path) -> None:
    _thaw_vllm_module().freeze_model_pipelined(_Model(tensors), str(path))


def _fast(**options: Any) -> Callable[[Job], Load]:
    return lambda job: _fastsafetensors(job, **options)


PEERS: Mapping[str, Peer] = {
    "safetensors": Peer(
        "safetensors", "checkpoint", {"default": Setting(_safetensors)}, _save_safetensors
    ),
    "fastsafetensors": Peer(
        "fastsafetensors",
        "checkpoint",
        {
            "default": Setting(_fast(inflight=False)),
            "nogds": Setting(
                _fast(nogds=True, max_threads=16, inflight=True),
                note="nogds, 16 threads, tensors ready while others load",
            ),
        },
    ),
    "instanttensor": Peer(
        "instanttensor",
        "checkpoint",
        {
            "default": Setting(_instanttensor),
            "into": Setting(
                _instanttensor_into,
                {"INSTANTTENSOR_CACHE_BUFFER": "1"},
                into=True,
                note="no clone: copied into tensors that are there; staging buffers kept",
            ),
            "io_uring": Setting(
                lambda job: _instanttensor(job, backend="URING_BUFFERED"),
                note="io_uring, buffered",
            ),
        },
    ),
    "runai-model-streamer": Peer(
        "runai-model-streamer",
        "checkpoint",
        {
            "default": Setting(_runai, note="tensors then moved to the device"),
            "concurrency": Setting(
                _runai,
                {"RUNAI_STREAMER_CONCURRENCY": "32", "RUNAI_STREAMER_MEMORY_LIMIT": "-1"},
                note="32 threads, no limit of memory; tensors then moved to the device",
            ),
        },
    ),
    "kvikio": Peer(
        "kvikio-cu13",
        "checkpoint",
        {
            "default": Setting(_kvikio, note="whole files into one buffer"),
            "threads": Setting(
                _kvikio,
                {"KVIKIO_NTHREADS": "16", "KVIKIO_TASK_SIZE": str(4 << 20)},
                note="whole files into one buffer; 16 threads, tasks of 4 MiB",
            ),
        },
    ),
    "torch": Peer(
        "torch",
        "model.pt",
        {
            "default": Setting(_torch),
            "mmap": Setting(lambda job: _torch(job, mmap=True), note="mmap=True"),
        },
        _save_torch,
    ),
    "thaw-vllm": Peer(
        "thaw-vllm",
        "other.thaw",
        {
            "default": Setting(_thaw_vllm, into=True),
            "buffered": Setting(
                lambda job: _thaw_vllm(job, direct_io=False), into=True, note="direct_io=False"
            ),
            "pinned": Setting(
                _thaw_vllm_pinned, into=True, note="a mapping pinned before the clock starts"
            ),
        },
        _save_thaw_vllm,
    ),
}
