"""State of modules that is neither parameter nor buffer: stored, given back, or refused by name."""

from pathlib import Path

import pytest
import torch
from torch import nn

import thaw
from thaw.tensors.structured import is_equal


class Scaled(nn.Module):
    """Keeps a tensor that only its own methods know."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.scale = scale

    def get_extra_state(self) -> object:
        return self.scale

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.scale, self.inverse = state, 1 / state

    def forward(self) -> list[float]:
        return (self.w * self.scale).tolist()


class Given(nn.Module):
    """Is given any state."""

    def __init__(self, state: object) -> None:
        super().__init__()
        self.w, self.state, self.times = nn.Parameter(torch.ones(2)), state, 0

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state, self.times = state, self.times + 1


class Packed(nn.Module):
    """Computes with numbers, and makes tensors of them whenever it is asked."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "value"] = torch.tensor([self.value])

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:  # type: ignore[no-untyped-def]
        self.value = int(state_dict.pop(prefix + "value"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Deaf(Packed):
    """As `Packed`, and takes nothing back."""

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:  # type: ignore[no-untyped-def]
        state_dict.pop(prefix + "value")


class Exposed(nn.Module):
    """Has a tensor that is no buffer in its state."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.table = torch.full((3,), value)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:  # type: ignore[no-untyped-def]
        destination[prefix + "table"] = self.table


def moved(one: nn.Module, other: nn.Module, folder: Path) -> thaw.Restored:
    thaw.freeze(one, folder / "m.thaw")
    return thaw.restore(folder / "m.thaw", into=other)


@pytest.mark.parametrize("nested", [False, True])
def test_extra_state_is_given_back(tmp_path: Path, nested: bool) -> None:
    one, other = Scaled(torch.tensor(3.0)), Scaled(torch.tensor([5.0, 6.0]))
    wrap = nn.Sequential if nested else lambda module: module
    restored = moved(wrap(one), wrap(other), tmp_path)
    assert other() == one()
    assert other.inverse == 1 / one.scale, "set_extra_state was called"
    assert ("0." if nested else "") + "_extra_state" in restored
    assert restored.report.kept == ()


def test_state_that_is_made_anew_goes_through_load_state_dict(tmp_path: Path) -> None:
    one = nn.Sequential(Packed(3), nn.Linear(2, 2), Packed(4))
    other = nn.Sequential(Packed(5), nn.Linear(2, 2), Packed(4))
    moved(one, other, tmp_path)
    assert [other[0].value, other[2].value] == [3, 4]
    assert torch.equal(other[1].weight, one[1].weight)


def test_a_module_that_does_not_take_its_state_is_named(tmp_path: Path) -> None:
    moved(Deaf(3), Deaf(3), tmp_path)
    with pytest.raises(thaw.MismatchError, match="did not take state of the snapshot: 'value'"):
        moved(Deaf(3), Deaf(5), tmp_path)

    class Refusing(Packed):
        def _load_from_state_dict(self, *rest) -> None:  # type: ignore[no-untyped-def]
            raise RuntimeError("never")

    with pytest.raises(thaw.MismatchError, match=r"refused .*\(never\): 'value'"):
        moved(Refusing(3), Refusing(5), tmp_path)


def test_live_memory_in_the_state_is_filled_where_it_is(tmp_path: Path) -> None:
    one, other = Exposed(3.0), Exposed(5.0)
    address = other.table.data_ptr()
    moved(one, other, tmp_path)
    assert torch.equal(other.table, one.table)
    assert other.table.data_ptr() == address


STATES = {
    "none in a list": [None, True],
    "numbers": (1, -(2**70), 0.1, float("inf")),
    "nan": float("nan"),
    "text": "x",
    "a dict": {"a": {"b.c": torch.arange(3)}, "d": torch.float8_e4m3fn},
    "a size": torch.Size([2, 3]),
    "empty": [],
    "turned": {"t": torch.arange(6.0).view(2, 3).T},
    "shared": [torch.ones(2)] * 2,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_state_of_plain_types_is_given_back(tmp_path: Path, state: object) -> None:
    one, other = Given(state), Given({"other": [torch.zeros(7)]})
    thaw.freeze(nn.Sequential(one), tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", into=nn.Sequential(other))
    assert is_equal(other.state, state)
    assert type(other.state) is type(state)
    assert restored.report.kept == ()
    count = other.times
    thaw.restore(tmp_path / "m.thaw", into=nn.Sequential(other))
    assert other.times == count, "it has it already"
    with pytest.raises(TypeError, match=r"'0\._extra_state' is state of the module and no tensor"):
        thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    with pytest.raises(thaw.MismatchError, match=r"'0\._extra_state' is not in the target"):
        thaw.restore(tmp_path / "m.thaw", into={"0.w": torch.zeros(2)})
    thaw.restore(tmp_path / "m.thaw", into={"0.w": torch.zeros(2)}, strict=False)
    thaw.restore(tmp_path / "m.thaw", into=nn.Sequential(Given(3)), names="*.w")


@pytest.mark.parametrize(
    "said",
    [
        3,
        {},
        {"dtype": "nn"},
        {"tensor": "absent"},
        {"tensor": 3},
        {"tuple": 3},
        {"dict": [1]},
        {"float": "x"},
        {"value": []},
        {"value": 1, "float": "0x1p0"},
        {"tensor": "w", "scale": "0x1p0", "zero_point": 0},
        {"tensor": "w", "scales": "w", "zero_points": "w", "axis": 0},
        {"dtype": "load"},
    ],
    ids=str,
)
def test_state_that_is_said_in_an_unknown_way_is_refused(tmp_path: Path, said: object) -> None:
    metadata = {"thaw.states": {"_extra_state": said}}
    thaw.freeze({"w": torch.zeros(2)}, tmp_path / "m.thaw", metadata=metadata)  # type: ignore[arg-type]
    target = Given(1)
    before = target.w.tolist()
    with pytest.raises(thaw.MismatchError):
        thaw.restore(tmp_path / "m.thaw", into=target)
    assert (target.state, target.w.tolist()) == (1, before)


@pytest.mark.parametrize("state", [{1, 2}, {1: 2}, object(), 3j, b"x", [nn.Linear(1, 1)]], ids=type)
def test_state_of_other_types_is_refused_by_name(tmp_path: Path, state: object) -> None:
    module = nn.Sequential(Scaled(state))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cannot be frozen: '0\._extra_state' \("):
        thaw.freeze(module, tmp_path / "m.thaw")
    assert list(tmp_path.iterdir()) == []
    thaw.freeze({"0.w": torch.zeros(2)}, tmp_path / "w.thaw")
    with pytest.raises(thaw.MismatchError, match=r"'0\._extra_state' is not in the snapshot"):
        thaw.restore(tmp_path / "w.thaw", into=module)
    assert module[0].w.tolist() == [1.0, 1.0]
    report = thaw.restore(tmp_path / "w.thaw", into=module, strict=False).report
    assert report.kept == ("0._extra_state",)
    assert module[0].w.tolist() == [0.0, 0.0]


def test_extra_state_that_has_another_name_too(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("scale", torch.zeros(1).fill_(value), persistent=False)

        def get_extra_state(self) -> torch.Tensor:
            return self.scale

        def set_extra_state(self, state: torch.Tensor) -> None:
            self.scale = state

    one, other = Doubled(3.0), Doubled(5.0)
    moved(one, other, tmp_path)
    assert torch.equal(other.scale, one.scale)
    thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    other = Doubled(5.0)
    thaw.restore(tmp_path / "m.safetensors", into=other)
    assert torch.equal(other.scale, one.scale)


def test_no_state_is_no_state(tmp_path: Path) -> None:
    one = Scaled(None)  # type: ignore[arg-type]
    moved(one, Scaled(None), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(thaw.MismatchError, match="'_extra_state' is not in the snapshot"):
        thaw.restore(tmp_path / "m.thaw", into=Scaled(torch.ones(1)))


def test_a_checkpoint_without_the_state_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one, other = Scaled(torch.tensor(3.0)), Scaled(torch.tensor(5.0))
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(thaw.MismatchError, match="'_extra_state' is not in the snapshot"):
        thaw.restore(tmp_path / "m.safetensors", into=other)
    save_file(one.state_dict(), tmp_path / "m.safetensors")
    thaw.restore(tmp_path / "m.safetensors", into=other)
    assert other() == one()


def renaming(module: nn.Module) -> nn.Module:
    def rename(module, state, prefix, metadata) -> None:  # type: ignore[no-untyped-def]
        state["new"] = state.pop("weight")
        state.pop("bias")
        state["scale"] = torch.tensor(2.0)

    module._register_state_dict_hook(rename)
    return module


def test_hooks_that_rename_drop_and_add(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one, other = renaming(nn.Linear(2, 3)), renaming(nn.Linear(2, 3))
    restored = moved(one, other, tmp_path)
    assert set(restored) == {"bias", "new", "scale"}
    assert torch.equal(other.weight, one.weight)
    assert torch.equal(other.bias, one.bias)
    again = renaming(nn.Linear(2, 3, bias=False))
    again._state_dict_hooks.clear()
    again._register_state_dict_hook(lambda m, state, *_: state.update(new=state.pop("weight")))
    save_file({"new": one.weight.detach()}, tmp_path / "m.safetensors")
    thaw.restore(tmp_path / "m.safetensors", into=again)
    assert torch.equal(again.weight, one.weight)
    thaw.convert(tmp_path / "m.thaw", tmp_path / "out.safetensors")
    assert set(thaw.restore(tmp_path / "out.safetensors")) == {"new", "scale"}


def test_wrappers_that_checkpoint_activations_have_the_names_of_what_they_wrap(
    tmp_path: Path,
) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    one, other = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    thaw.freeze(nn.Sequential(*map(checkpoint_wrapper, one)), tmp_path / "m.thaw")
    assert set(thaw.restore(tmp_path / "m.thaw", into=other)) == set(one.state_dict())
    assert torch.equal(other[0].weight, one[0].weight)
    thaw.freeze(one, tmp_path / "m.thaw")
    third = nn.Sequential(*map(checkpoint_wrapper, (nn.Linear(2, 3), nn.BatchNorm1d(3))))
    thaw.restore(tmp_path / "m.thaw", into=third)
    assert all(map(torch.equal, third.state_dict().values(), one.state_dict().values()))


def test_state_dict_that_fails_is_an_error_that_says_so(tmp_path: Path) -> None:
    class Failing(nn.Linear):
        def state_dict(self, *args, **options):  # type: ignore[no-untyped-def]
            raise RuntimeError("not\nnow")

    with pytest.raises(TypeError, match=r"state_dict\(\) of Failing failed, .*: not now"):
        thaw.freeze(Failing(2, 2), tmp_path / "m.thaw")
    assert list(tmp_path.iterdir()) == []
    thaw.freeze(nn.Linear(2, 2), tmp_path / "m.thaw")
    with pytest.raises(TypeError, match=r"state_dict\(\) of Failing failed"):
        thaw.restore(tmp_path / "m.thaw", into=Failing(2, 2))


def test_a_state_dict_of_an_instance_is_asked(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module.state_dict = lambda: {"weight": module.weight, "more": {1, 2}}  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"cannot be frozen: 'more' \(set\)"):
        thaw.freeze(module, tmp_path / "m.thaw")


class Tagged(nn.Parameter):
    """A parameter whose attributes are part of its value."""


class Holder:
    def __init__(self, value: float, block: int) -> None:
        self.scales, self.block, self.back = {"a": [torch.full((2,), value)]}, block, self


def tagged(value: float, block: int = 64) -> nn.Module:
    module = nn.Module()
    module.w = Tagged(torch.full((4,), value))
    module.w.zero = torch.tensor([value])
    module.w.same = module.w.data.view(2, 2)
    module.w.holder = Holder(value, block)
    module.w.owner = nn.Linear(3, 3)
    return module


def test_tensors_that_are_attributes_of_parameters(tmp_path: Path) -> None:
    one, other = tagged(3.0), tagged(5.0)
    restored = moved(one, other, tmp_path)
    assert set(restored) == {"w", "w.zero", "w.holder.scales.a.0"}
    assert other.w.tolist() == [3.0] * 4
    assert other.w.zero.tolist() == [3.0]
    assert other.w.holder.scales["a"][0].tolist() == [3.0, 3.0]
    assert thaw.open(tmp_path / "m.thaw").metadata["thaw.attributes"]["w"]["holder.block"] == "64"
    with pytest.raises(thaw.MismatchError, match=r"'w' has holder\.block 64 .*, 32 in the target"):
        thaw.restore(tmp_path / "m.thaw", into=tagged(5.0, 32))
    thaw.freeze({"w": one.w}, tmp_path / "mapping.thaw")
    assert set(thaw.restore(tmp_path / "mapping.thaw")) == set(restored)
    thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    assert set(thaw.restore(tmp_path / "m.safetensors")) == {"w"}
    with pytest.raises(thaw.MismatchError, match=r"'w\.zero' is not in the snapshot"):
        thaw.restore(tmp_path / "m.safetensors", into=other)


def test_attributes_of_plain_parameters_are_no_state(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module.weight.main_grad = torch.ones(2, 2)  # type: ignore[attr-defined]
    thaw.freeze(module, tmp_path / "m.thaw")
    assert set(thaw.restore(tmp_path / "m.thaw")) == {"weight", "bias"}


def test_plain_attributes_of_modules_are_named_in_the_report(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].scale = torch.ones(1)
    module[0].again = module[0].weight.data
    report = thaw.freeze(module, tmp_path / "m.thaw")
    assert report.left_out == ("0.scale",)
    assert thaw.freeze({"a": torch.ones(1)}, tmp_path / "m.thaw").left_out == ()


def test_an_ordinary_module_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def asked(*_: object, **__: object) -> object:
        raise AssertionError

    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "state_dict", asked)
        moved(module, module, tmp_path)


def test_what_is_filled_counts_as_written(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    thaw.freeze(module, tmp_path / "m.thaw")
    before = module.weight._version
    out = module(torch.ones(1, 2, requires_grad=True)).sum()
    thaw.restore(tmp_path / "m.thaw", into=module)
    assert module.weight._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
    with torch.inference_mode():
        target = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    thaw.restore(tmp_path / "m.thaw", into=target)
    assert torch.equal(target["weight"], module.weight)
