"""Every backend that is installed, on every device, as parameters of the tests in this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from thaw.plugins.host import registry

sys.path.insert(0, str(Path(__file__).parent))  # what the tests here share

from parity_plans import Mover

DEVICES = (torch.device("cpu"), torch.device("cuda", 0))


def _movers() -> list[Mover]:
    return [Mover(each, device) for each in registry().backends.values() for device in DEVICES]


def _parameters() -> list[object]:
    return [
        pytest.param(each, id=str(each), marks=[pytest.mark.gpu] if each.on_cuda else [])
        for each in _movers()
    ]


@pytest.fixture(scope="module", params=_parameters())
def mover(request: pytest.FixtureRequest) -> Mover:
    """A backend and the device whose memory it moves."""
    mover: Mover = request.param
    if reason := mover.obstacle():
        pytest.skip(f"{mover.name} on {mover.device.type}: {reason}")
    return mover


@pytest.fixture(scope="session")
def everyone() -> list[Mover]:
    """Every backend with every device that it can serve here."""
    return [each for each in _movers() if not each.obstacle()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all the examples of a test, which use the same names again."""
    return tmp_path_factory.mktemp("parity")
