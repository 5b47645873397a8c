from pathlib import Path

import pytest
import torch

import thaw
from thaw.cli import needs


def layers() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {"model.embed.weight": torch.randn(64, 32, generator=generator)}
    for layer in range(12):
        for part in ("attention.q", "attention.k", "mlp.up", "mlp.down"):
            name = f"model.layers.{layer}.{part}_proj.weight"
            tensors[name] = torch.randn(32, 16, generator=generator).to(torch.bfloat16)
    tensors["lm_head.weight"] = tensors["model.embed.weight"]
    return tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    thaw.freeze(layers(), tmp_path / "model.thaw", metadata={"format": "pt", "steps": [1, 2]})
    return tmp_path / "model.thaw"


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    for rank in range(2):
        thaw.freeze(
            {"w": torch.full((4,), float(rank))},
            tmp_path / "ranks.thaw",
            shard=thaw.Shard(rank, 2, tp=thaw.RankOf(rank, 2)),
            snapshot_id="ab" * 16,
        )
    thaw.finish_ranks(tmp_path / "ranks.thaw")
    return tmp_path / "ranks.thaw"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a snapshot and a place without a launcher; vLLM seems to be there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(needs, "find_spec", lambda name: name)
    (tmp_path / "x.thaw").touch()
    return tmp_path
