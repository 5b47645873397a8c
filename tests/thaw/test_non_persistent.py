"""Buffers that no checkpoint has: left out of exports, and never left unfilled without a word."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import thaw


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / torch.arange(1.0, 513.0), persistent=False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary, self.linear = Rotary(), nn.Linear(4, 4)
        self.register_buffer("kept", torch.ones(3))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_file(Net().state_dict(), tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def emptied() -> Net:
    with torch.device("meta"):
        net = Net()
    return net.to_empty(device="cpu")


@pytest.mark.parametrize("destination", ["m.safetensors", "folder"])
def test_an_export_has_the_names_of_a_checkpoint(tmp_path: Path, destination: str) -> None:
    net = Net()
    thaw.freeze(net, tmp_path / "m.thaw")
    into = tmp_path / destination
    report = thaw.convert(tmp_path / "m.thaw", into, format="safetensors")
    file = into if into.is_file() else into / "model.safetensors"
    assert load_file(file).keys() == net.state_dict().keys()
    assert report.tensors == len(net.state_dict())
    Net().load_state_dict(load_file(file))


def test_a_snapshot_says_which_names_are_not_persistent(tmp_path: Path) -> None:
    thaw.freeze(Net(), tmp_path / "m.thaw", metadata={"mine": 1})
    with thaw.open(tmp_path / "m.thaw") as snapshot:
        assert snapshot.metadata == {"mine": 1, "thaw.non_persistent": ["rotary.inv_freq"]}
    thaw.convert(tmp_path / "m.thaw", tmp_path / "again.thaw")
    with thaw.open(tmp_path / "again.thaw") as snapshot:
        assert snapshot.metadata == {"mine": 1, "thaw.non_persistent": ["rotary.inv_freq"]}
        assert "rotary.inv_freq" in snapshot.tensors
    thaw.freeze(nn.Linear(2, 2), tmp_path / "plain.thaw")
    with thaw.open(tmp_path / "plain.thaw") as snapshot:
        assert snapshot.metadata == {}


@pytest.mark.parametrize("said", [3, "linear.weight", [1, None, "linear.weight"], {"a": 1}])
def test_metadata_of_strangers_is_no_surprise(tmp_path: Path, said: object) -> None:
    metadata = {"thaw.non_persistent": said, "thaw.attributes": said}
    thaw.freeze(Net().state_dict(), tmp_path / "m.thaw", metadata=metadata)  # type: ignore[arg-type]
    thaw.restore(tmp_path / "m.thaw", into=Net())
    thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    wanted = set(Net().state_dict()) - ({"linear.weight"} if isinstance(said, list) else set())
    assert set(load_file(tmp_path / "m.safetensors")) == wanted


def test_a_tied_name_that_is_persistent_is_exported(tmp_path: Path) -> None:
    net = Net()
    net.register_buffer("again", net.rotary.inv_freq)
    thaw.freeze(net, tmp_path / "m.thaw")
    thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    assert set(load_file(tmp_path / "m.safetensors")) == set(net.state_dict())


def test_a_buffer_left_as_memory_happened_to_be_is_warned_of(checkpoint: Path) -> None:
    other = emptied()
    with pytest.warns(thaw.UnfilledWarning, match=r"lacks 'rotary\.inv_freq'") as caught:
        report = thaw.restore(checkpoint, into=other).report
    assert caught[0].filename == __file__
    assert report.kept == ("rotary.inv_freq",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = emptied()
        target.linear.weight.data.zero_()
        with pytest.raises(thaw.UnfilledWarning):
            thaw.restore(checkpoint, into=emptied())


def test_as_an_error_the_warning_leaves_the_target_as_it_was(checkpoint: Path) -> None:
    other = emptied()
    other.linear.weight.data = torch.zeros(4, 4)
    with pytest.raises(thaw.UnfilledWarning):
        thaw.restore(checkpoint, into=other)
    assert not other.linear.weight.any()


def test_an_initialized_module_is_filled_without_a_word(checkpoint: Path, tmp_path: Path) -> None:
    net = Net()
    assert thaw.restore(checkpoint, into=net).report.kept == ("rotary.inv_freq",)
    thaw.restore(checkpoint, into=Net().to(torch.float32))
    thaw.restore(checkpoint, into=emptied(), names="linear.*")
    thaw.freeze(net, tmp_path / "m.thaw")
    other = emptied()
    assert thaw.restore(tmp_path / "m.thaw", into=other).report.kept == ()
    assert torch.equal(other.rotary.inv_freq, net.rotary.inv_freq)
    thaw.restore(checkpoint, into=other)
    third = emptied()
    third.rotary.inv_freq.copy_(net.rotary.inv_freq)
    thaw.restore(checkpoint, into=third)


def test_the_error_of_meta_tensors_names_what_stays_without_values(
    checkpoint: Path, tmp_path: Path
) -> None:
    with torch.device("meta"):
        other = Net()
    with pytest.raises(thaw.MismatchError) as caught:
        thaw.restore(checkpoint, into=other)
    assert "to_empty" in str(caught.value)
    assert "the snapshot lacks 'rotary.inv_freq'" in str(caught.value)
    thaw.freeze(Net(), tmp_path / "m.thaw")
    with pytest.raises(thaw.MismatchError, match="to_empty") as caught:
        thaw.restore(tmp_path / "m.thaw", into=other)
    assert "the snapshot lacks" not in str(caught.value)
