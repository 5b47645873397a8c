"""For the workers of an engine, by `worker_extension_cls="session_extension.Measured"`."""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict
from typing import Any

import torch

from rank_transfers import pinned_copies

_SPLIT = ("_proj.weight", "w13_weight", "w2_weight", "embed_tokens.weight", "lm_head.weight")
"""How names end of what each rank has a part of."""


class Measured:
    """Adds to a worker what the benchmark of sessions asks of it."""

    def refill_weights(self: Any) -> int:
        """Fill the weights with numbers that are the same in each process; return how many.

        Dummy weights are so small that what attention adds to a token is rounded away, and any
        cache would give the same logprobs.
        """
        filled = 0
        for name, parameter in self.get_model().named_parameters():
            _fill(parameter.data, name, self.rank)
            filled += parameter.numel()
        return filled

    def bus_gbps(self: Any, times: int) -> list[float]:
        """Copy pinned memory to this worker's device, in large pieces; return GB/s."""
        if self.device.type != "cuda":
            return []
        copy, found = pinned_copies(self.device), []
        copy()
        for _ in range(times):
            began = time.perf_counter()
            nbytes, _more = copy()
            found.append(nbytes / (time.perf_counter() - began) / 1e9)
        return found

    def last_moves(self, what: str, count: int) -> list[dict[str, Any]]:
        """Say how the last loads or freezes ended here.

        Args:
            what: "loaded" or "frozen".
        """
        from vllm.distributed import kv_transfer

        moved = getattr(kv_transfer.get_kv_transfer_group().session_worker, what)
        return [asdict(each) for each in list(moved.values())[-count:]]


def _fill(weights: torch.Tensor, name: str, rank: int) -> None:
    if not weights.is_floating_point():
        return
    seed = zlib.crc32(f"{name} {rank if name.endswith(_SPLIT) else 0}".encode())
    generator = torch.Generator(weights.device).manual_seed(seed)
    weights.normal_(std=0.02, generator=generator)
    if weights.dim() == 1 and "norm" in name:
        weights.add_(1.0)
