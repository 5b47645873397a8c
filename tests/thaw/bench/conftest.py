from pathlib import Path

import pytest
import torch

import thaw
from thaw.bench.identity import scramble

NOT_A_NUMBER = 0x7FC1  # one whose payload only a comparison of bytes can see


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 40, generator=generator)
    nans = torch.full((1000,), NOT_A_NUMBER, dtype=torch.int16).view(torch.bfloat16)
    tensors = {"a": weight, "tied": weight, "t": weight.T, "nans": nans, "empty": torch.empty(0)}
    folder = tmp_path / "model"
    folder.mkdir()
    thaw.freeze(tensors, folder / "m.thaw")
    # Freed memory is handed out again: the right bytes must not be found in it.
    scramble(tensors.values())
    return folder / "m.thaw"
