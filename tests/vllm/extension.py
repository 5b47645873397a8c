"""For the workers of the tests' engines, by `worker_extension_cls="extension.Extension"`.

vLLM imports this module in each worker before it builds the model.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from vllm import _custom_ops

DEADLY = "deadly.thaw"
_rename = os.rename


class Extension:
    """Adds nothing: what counts is that this module was imported."""


def _rename_or_die(source: Any, target: Any) -> None:
    """Die when all is written and nothing has its name yet; of two ranks the second one dies."""
    parts = Path(target).parts
    if any(DEADLY in part for part in parts) and not parts[-1].startswith("rank-00000"):
        os.kill(os.getpid(), signal.SIGKILL)
    _rename(source, target)


os.rename = _rename_or_die
# Weights stay in their tensors, so that a live engine can be frozen on a CPU.
_custom_ops._supports_onednn = False
