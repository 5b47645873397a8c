"""A rank's caches on the host, and what it loads and freezes there, without an engine."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import without_vllm  # noqa: F401 - before the modules that need it
from made_requests import FULL, binding
from made_sessions import BLOCK, LAYERS

import thaw
from thaw.plugins.opening import open_snapshot
from thaw.vllm.kv.binding import Binding
from thaw.vllm.kv.layout import Blocks, LayerCache
from thaw.vllm.kv.orders import Freeze, Load, Moved
from thaw.vllm.kv.record import Hashes
from thaw.vllm.kv.transfers import Rank, Transfers

BLOCKS = 40


class Engine:
    """One rank, with random bytes in its caches.

    Attributes:
        tensors: the caches, by layer; dimension 0 counts the blocks.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        ranks: int = 1,
        row: Sequence[int] = (1, BLOCK, 2),
        dtype: torch.dtype = torch.bfloat16,
        seed: int = 0,
        **members: Any,
    ) -> None:
        made = torch.Generator().manual_seed(seed)
        self.tensors = {}
        for name in LAYERS:
            nbytes = BLOCKS * dtype.itemsize
            for size in row:
                nbytes *= size
            flat = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=made)
            self.tensors[name] = flat.view(dtype).view(BLOCKS, *row)
        caches = {
            name: LayerCache.of(each, 0, BLOCKS, backend="FLASH", cache_dtype="auto")
            for name, each in self.tensors.items()
        }
        layers = {name: each.layer for name, each in caches.items()}
        self.bound: Callable[[], Binding] = lambda: binding(
            rank, **({"layers": layers, "groups": (FULL,)} | members)
        )
        shard = thaw.Shard(rank, ranks, tp=thaw.RankOf(rank, ranks))

        def opened(path: str) -> AbstractContextManager[thaw.Snapshot]:
            return open_snapshot(path, rank=rank)

        def bound() -> Binding:
            return self.bound()

        self.transfers = Transfers(Rank(shard, caches, bound, opened))

    def freeze(self, path: Path, blocks: Sequence[int], **members: Any) -> Moved:
        """Freeze blocks, and wait for it."""
        self.transfers.freeze(order_of(path, blocks, **members))
        return self._ended("freezes")

    def load(self, path: Path, stored: Sequence[int], blocks: Sequence[int]) -> Moved:
        """Load blocks from a session as it is now, and wait for it."""
        with thaw.open(path, rank=0) as snapshot:
            identity = snapshot.snapshot_id
        return self.load_that(path, identity, stored, blocks)

    def load_that(
        self, path: Path, identity: str, stored: Sequence[int], blocks: Sequence[int]
    ) -> Moved:
        self.transfers.load(Load("r", str(path), identity, (Blocks(stored, blocks),)))
        return self._ended("loads")

    def _ended(self, which: str) -> Moved:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            if found := getattr(self.transfers.take_ended(), which):
                moved: Moved = found["r"]
                return moved
            time.sleep(0.001)
        raise TimeoutError("it has not ended")


def order_of(path: Path, blocks: Sequence[int], *, snapshot_id: str = "", first: int = 0) -> Freeze:
    """Order that blocks are frozen, of as many tokens from an id on."""
    tokens = len(blocks) * BLOCK
    return Freeze(
        "r",
        str(path),
        snapshot_id or f"{time.time_ns():032x}",
        struct.pack(f"<{tokens}I", *range(first, first + tokens)),
        Hashes("sha256", bytes(32), BLOCK, bytes(32 * len(blocks))),
        (Blocks(list(range(len(blocks))), list(blocks)),),
        (0,),
    )
