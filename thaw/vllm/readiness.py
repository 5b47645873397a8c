"""Whether the weights of an engine are where they can be read and written."""

from __future__ import annotations

from typing import Any

import torch
from thaw_format import ThawError

_WEIGHTS = "weights"
"""The tag of vLLM's sleep mode for the memory of weights."""


def check_awake() -> None:
    """Refuse while an engine sleeps: the addresses of its weights have no memory then."""
    if not torch.cuda.is_initialized():
        return
    from vllm.device_allocator.cumem import CuMemAllocator

    allocator = CuMemAllocator.instance
    allocations = allocator.pointer_to_data.values() if allocator else ()
    if any(each.is_asleep and each.tag == _WEIGHTS for each in allocations):
        raise ThawError(
            "the engine sleeps, and its weights have no memory: call wake_up() first, for which "
            f"tags=[{_WEIGHTS!r}] is enough"
        )


def check_alone(worker: Any) -> None:
    """Refuse where adapters share the model, or experts move in it: no weight says where."""
    if worker.vllm_config.lora_config is not None:
        raise ThawError(
            "an engine with enable_lora keeps adapters in its model, and a snapshot would have "
            "them without their names: freeze and swap the weights of one without"
        )
    if getattr(getattr(worker.vllm_config, "parallel_config", None), "enable_eplb", False):
        raise ThawError(
            "an engine with enable_eplb moves experts from place to place, and a snapshot would "
            "have them without saying which is where: freeze and swap the weights of one without"
        )
