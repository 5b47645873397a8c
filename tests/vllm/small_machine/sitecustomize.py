"""Have engines fit a small machine without a GPU, whatever starts them.

Python imports this module at its start where its folder is in PYTHONPATH; the commands themselves
stay as a document shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

ENGINE = {
    "enforce_eager": True,
    "max_model_len": 256,
    "kv_cache_memory_bytes": 64 << 20,
    "block_size": 32,
    "gpu_memory_utilization": 0.3,
}


def _shrink(arg_utils: Any) -> None:
    create = arg_utils.EngineArgs.create_engine_config

    def create_small(args: Any, *more: Any, **options: Any) -> Any:
        vars(args).update(ENGINE)
        return create(args, *more, **options)

    arg_utils.EngineArgs.create_engine_config = create_small


def _leave_unpacked(custom_ops: Any) -> None:
    """Have weights stay in their tensors, so that a live engine can be frozen."""
    custom_ops._supports_onednn = False


def _lock_nothing(pinning: Any) -> None:
    """Have what is pinned be open only: pages are locked for CUDA devices."""

    def pin(path: Any, *, device: Any, rank: int) -> Any:
        return pinning.PinnedSnapshot(pinning.open_snapshot(path, rank=rank), 0.0)

    pinning.pin = pin


CHANGES: dict[str, Callable[[Any], None]] = {
    "vllm.engine.arg_utils": _shrink,
    "vllm._custom_ops": _leave_unpacked,
    "thaw.restoring.pinning": _lock_nothing,
}


class _Changes(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in CHANGES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            CHANGES[name](module)

        vars(spec.loader)["exec_module"] = execute_and_change
        return spec


sys.meta_path.insert(0, _Changes())
