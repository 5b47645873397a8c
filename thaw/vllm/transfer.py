"""What `weights.transfer` was called before; it goes on for a release."""

import warnings
from typing import Any

from ..reports import FreezeReport
from .weights import transfer
from .weights.transfer import compare_state, prepare_state

__all__ = ["compare_state", "freeze_state", "prepare_state"]

warnings.warn(f"{__name__} is called weights.transfer now", DeprecationWarning, stacklevel=2)


def freeze_state(*args: Any, kind: str, **options: Any) -> FreezeReport:
    """Freeze as `weights.transfer.freeze_state` does, where a stage is still called a kind."""
    return transfer.freeze_state(*args, stage=kind, **options)
