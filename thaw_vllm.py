"""Freeze and restore vLLM engines: `load_format="thaw"`, and engines at work.

What takes an engine takes a `vllm.LLM`, or an `AsyncLLM`, and is awaited then.

`freeze_model_tp`, `restore_model_tp`, `pin_model_tp` and `unpin_model_tp` are other names of
`freeze_engine`, `restore_engine`, `pin_engine` and `unpin_engine`.
"""

from typing import TYPE_CHECKING, Any

from thaw.vllm.kv.sessions import SessionReport, freeze_session, restore_session
from thaw.vllm.live import freeze_engine, pin_engine, restore_engine, unpin_engine, verify
from thaw.vllm.offline import freeze, load
from thaw.vllm.ranks import EngineComparison, EngineReport

if TYPE_CHECKING:
    from thaw.vllm.kv.connector import ThawConnector

freeze_model_tp = freeze_engine
restore_model_tp = restore_engine
pin_model_tp = pin_engine
unpin_model_tp = unpin_engine

__all__ = [
    "EngineComparison",
    "EngineReport",
    "SessionReport",
    "ThawConnector",
    "freeze",
    "freeze_engine",
    "freeze_model_tp",
    "freeze_session",
    "load",
    "pin_engine",
    "pin_model_tp",
    "restore_engine",
    "restore_model_tp",
    "restore_session",
    "unpin_engine",
    "unpin_model_tp",
    "verify",
]


def __getattr__(name: str) -> Any:
    # vLLM takes its connector from here; it imports vLLM, which takes long.
    if name == "ThawConnector":
        from thaw.vllm.kv.connector import ThawConnector

        return ThawConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
