"""The list of backends: nothing is probed before it is looked at."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch

import thaw
from thaw.plugins import host, listing
from thaw.plugins.reference import ReferenceBackend


class Probed(ReferenceBackend):
    name = "probed"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def probe(self, device: torch.device) -> thaw.Support:
        self.seen.append(str(device))
        return thaw.Support(device.type == "cpu", f"it was asked for {device}", "host")


class Plugin:
    def __init__(self) -> None:
        self.backend = Probed()

    @thaw.hookimpl
    def thaw_register_backends(self) -> list[thaw.Backend]:
        return [self.backend]


class Point:
    """An entry point of a plugin."""

    name, dist = "probed", None

    def __init__(self, plugin: Plugin) -> None:
        self.load = lambda: plugin


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    plugin = Plugin()
    loaded = host.load([Point(plugin)])
    monkeypatch.setattr(listing, "registry", lambda: loaded)
    yield plugin


def info() -> thaw.BackendInfo:
    return next(each for each in thaw.backends() if each.name == "probed")


def test_a_backend_is_probed_when_it_is_looked_at_and_once(plugin: Plugin) -> None:
    support = info().support
    assert list(support) == ["cpu", "cuda"]
    assert len(support) == 2
    assert plugin.backend.seen == []
    assert support["cuda"] == thaw.Support(False, "it was asked for cuda", "host")
    assert plugin.backend.seen == ["cuda"]
    assert {name: each.available for name, each in support.items()} == {"cpu": True, "cuda": False}
    assert support["cpu"].available
    assert plugin.backend.seen == ["cuda", "cpu"]


def test_a_device_that_is_not_listed_is_a_key_error(plugin: Plugin) -> None:
    support = info().support
    with pytest.raises(KeyError):
        support["mps"]
    assert "mps" not in support
    assert plugin.backend.seen == []


def test_it_is_shown_compared_copied_and_sent_as_what_it_says(plugin: Plugin) -> None:
    found = info()
    said = dict(found.support)
    assert found == thaw.BackendInfo("probed", "unknown", said)
    assert repr(found.support) == repr(said)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert other == found
        assert type(other.support) is dict
