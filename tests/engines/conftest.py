"""Launchers that import little, one for each test or for all of a module."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests here share
from places import Place


@pytest.fixture(scope="session", autouse=True)
def signals() -> Iterator[None]:
    """Ignore none of those that tests send: whoever runs them may, as `nohup` does."""
    sent = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = {each: signal.getsignal(each) for each in sent}
    for each, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@contextmanager
def _place(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """No launcher runs there yet."""
    folder = tmp_path / "run"
    folder.mkdir(0o700)
    with _place(folder) as made:
        yield made


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A launcher runs there, which all tests of a module share."""
    with _place(tmp_path_factory.mktemp("run")) as made:
        made.launch()
        assert made.said.get("pid") == made.launcher.pid  # type: ignore[union-attr]
        yield made
