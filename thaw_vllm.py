"""Freeze and restore vLLM engines: `load_format="thaw"`, and engines at work."""

from thaw.vllm.engine import (
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
