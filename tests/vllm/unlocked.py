"""For the workers of engines on a CPU, by `worker_extension_cls="unlocked.Unlocked"`.

Pages are locked for CUDA devices; here what is pinned is open, and no more.
"""

from __future__ import annotations

from typing import Any

from extension import Extension

import thaw.vllm.agent
from thaw.plugins.opening import open_snapshot
from thaw.restoring.pinning import PinnedSnapshot


class Unlocked(Extension):
    """Adds nothing: what counts is that this module was imported."""


def _pin(path: Any, *, device: Any, rank: int) -> PinnedSnapshot:
    return PinnedSnapshot(open_snapshot(path, rank=rank), 0.0)


vars(thaw.vllm.agent)["pin"] = _pin
