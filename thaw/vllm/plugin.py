"""What vLLM calls in each of its processes, as a general plugin; it may do so more than once."""

from __future__ import annotations


def register() -> None:
    """Register the load formats, and give workers what `thaw_vllm` asks of them."""
    from vllm.model_executor import model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.v1.worker.worker_base import WorkerBase

    from .weights.kernels import note_when_loaded
    from .weights.loader import FreezingModelLoader, ThawModelLoader
    from .worker import add_method, keep_configurations

    known = model_loader._LOAD_FORMAT_TO_MODEL_LOADER
    for name, loader in (("thaw", ThawModelLoader), ("thaw-freeze", FreezingModelLoader)):
        if known.get(name) is not loader:
            model_loader.register_model_loader(name)(loader)
    add_method(WorkerBase)
    keep_configurations(WorkerBase)
    note_when_loaded(BaseModelLoader)
