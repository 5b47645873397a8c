"""Session files that no engine froze: a few tokens, or many, of a small layer."""

from __future__ import annotations

import os
import secrets
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import thaw
from thaw.vllm.kv.record import Group, Hashes, Layer, Session

BLOCK = 16
LAYERS = ("layers.0.attn", "layers.1.attn")
ENGINE = {"model": "LlamaForCausalLM", "dtype": "bfloat16", "vllm": "0.26.0"}


def session(tokens: int = 64, *, first: int = 0, **members: Any) -> Session:
    """Make up what a file says, of so many tokens from an id on."""
    blocks = tokens // BLOCK
    plain = Session(
        token_ids=struct.pack(f"<{tokens}I", *range(first, first + tokens)),
        hashes=Hashes("sha256", bytes(range(32)), BLOCK, secrets.token_bytes(32 * blocks)),
        groups=(Group("full", BLOCK, None, 0, blocks, LAYERS),),
        layers=dict.fromkeys(LAYERS, Layer((None, 1, BLOCK, 2), (0, 1, 2, 3), 1, "FLASH", "auto")),
        fingerprint="0f" * 32,
        engine=ENGINE,
    )
    return replace(plain, **members)


def freeze(path: Path, said: Session | None = None, *, ranks: int = 1, **given: Any) -> Path:
    """Freeze a session as engines do: to a file, or of several ranks to a folder."""
    said = said or session()
    identity = secrets.token_hex(16)
    tensors = {
        name: torch.zeros(group.blocks, 1, BLOCK, 2, dtype=torch.bfloat16)
        for group in said.groups
        for name in group.layers
    }
    for rank in range(ranks):
        shard = thaw.Shard(rank, ranks, tp=thaw.RankOf(rank, ranks)) if ranks > 1 else None
        plain = {"kind": "kv", "metadata": said.record(), "shard": shard}
        thaw.freeze(tensors, path, snapshot_id=identity, **(plain | given))
    if ranks > 1:
        thaw.finish_ranks(path, snapshot_id=identity)
    return path


def age(path: Path, *, frozen_s: float, used_s: float) -> None:
    """Let a session have been frozen and used so long ago."""
    place = path / "snapshot.json" if path.is_dir() else path
    now = time.time()
    os.utime(place, (now - used_s, now - frozen_s))
