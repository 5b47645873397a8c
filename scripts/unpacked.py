"""For the workers of CPU engines with several ranks, by `worker_extension_cls="unpacked.Unpacked"`.

vLLM imports this module in each worker before it builds the model.
"""

from __future__ import annotations

from vllm import _custom_ops


class Unpacked:
    """Adds nothing: what counts is that this module was imported."""


# Weights stay in their tensors, so that a live engine can be frozen on a CPU.
_custom_ops._supports_onednn = False
