"""For the workers of an engine, by `worker_extension_cls="rank_extension.DyingRank"`.

vLLM imports this module in each worker before it builds the model.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from thaw.restoring.api import restore
from thaw.vllm.weights import transfer

LAST_WORDS = "rank 1 dies while it restores"
_AFTER_S = 0.02


class DyingRank:
    """Adds nothing: what counts is that this module was imported."""


def _restore_and_die(*args: Any, **options: Any) -> Any:
    """Restore, and on rank 1 be killed soon after the start."""
    from vllm.distributed import get_world_group

    if get_world_group().rank == 1:
        threading.Timer(_AFTER_S, _die).start()
    return restore(*args, **options)


def _die() -> None:
    print(LAST_WORDS, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


transfer.restore = _restore_and_die  # type: ignore[attr-defined]
