"""thaw inside vLLM. Users import `thaw_vllm`, a face of this package."""

from .engine import (
    EngineComparison,
    EngineReport,
    freeze,
    freeze_model_tp,
    load,
    pin_model_tp,
    restore_model_tp,
    unpin_model_tp,
    verify,
)

__all__ = [
    "EngineComparison",
    "EngineReport",
    "freeze",
    "freeze_model_tp",
    "load",
    "pin_model_tp",
    "restore_model_tp",
    "unpin_model_tp",
    "verify",
]
