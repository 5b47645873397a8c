"""Names that wrappers of modules prefix, and tensors that stand for others."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import thaw

# What importing torch's compiler says.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 2)
        self.register_buffer("cache", torch.rand(5), persistent=False)


class Wrapper(nn.Module):
    """As DistributedDataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def alike(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("compiled", [(True, False), (False, True), (True, True)])
def test_compiled_modules_are_seen_through(compiled: tuple[bool, bool], tmp_path: Path) -> None:
    one, other = Net(), Net()
    source, target = (
        torch.compile(net) if wrapped else net
        for net, wrapped in zip((one, other), compiled, strict=True)
    )
    thaw.freeze(source, tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", into=target)
    assert set(restored) == {*one.state_dict(), "cache"}
    assert alike(one, other)
    assert torch.equal(one.cache, other.cache)
    with thaw.open(tmp_path / "m.thaw") as snapshot:
        assert snapshot.metadata["thaw.non_persistent"] == ["cache"]


def test_compiled_parts_are_seen_through(tmp_path: Path) -> None:
    one, other = Net(), Net()
    one.two = torch.compile(one.two)
    outer = torch.compile(Wrapper(torch.compile(one)))
    thaw.freeze(outer, tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", into=Wrapper(other))
    assert set(restored) == {f"module.{name}" for name in (*Net().state_dict(), "cache")}
    assert torch.equal(one.two.weight, other.two.weight)
    assert thaw.restore(tmp_path / "m.thaw", into=outer).report.kept == ()


def test_compiled_modules_with_state_of_their_own(tmp_path: Path) -> None:
    class Own(nn.Linear):
        extra = torch.zeros(1)

        def get_extra_state(self) -> torch.Tensor:
            return self.extra

        def set_extra_state(self, state: torch.Tensor) -> None:
            self.extra = state

    one, other = Own(2, 2), Own(2, 2)
    one.extra = torch.ones(3)
    thaw.freeze(torch.compile(nn.Sequential(one)), tmp_path / "m.thaw")
    assert "0._extra_state" in thaw.restore(tmp_path / "m.thaw")
    thaw.restore(tmp_path / "m.thaw", into=nn.Sequential(torch.compile(other)))
    assert torch.equal(other.extra, one.extra)


def test_no_compiler_is_imported_to_look_for_compiled_modules(tmp_path: Path) -> None:
    script = (
        "import sys, thaw, torch; net = torch.nn.Linear(2, 2); before = set(sys.modules)\n"
        "thaw.freeze(net, sys.argv[1]); thaw.restore(sys.argv[1], into=net)\n"
        "print([m for m in set(sys.modules) - before if m.startswith('torch._dynamo')])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "m.thaw")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.base."])
def test_a_prefix_in_the_snapshot_is_named(prefix: str, tmp_path: Path) -> None:
    one, other = Net(), Net()
    named = {prefix + name: tensor for name, tensor in one.state_dict().items()}
    thaw.freeze(named, tmp_path / "m.thaw")
    with pytest.raises(thaw.MismatchError) as caught:
        thaw.restore(tmp_path / "m.thaw", into=other)
    assert f"names of the snapshot begin with {prefix!r}" in str(caught.value)
    advice = {prefix + name: t for name, t in other.state_dict().items()}
    thaw.restore(tmp_path / "m.thaw", into=advice)
    assert alike(one, other)


def test_a_prefix_in_the_target_is_named(tmp_path: Path) -> None:
    thaw.freeze(Net().state_dict(), tmp_path / "m.thaw")
    target = Wrapper(Net())
    target.head = nn.Linear(1, 1)
    with pytest.raises(thaw.MismatchError, match=r"names of the target begin with 'module\.'"):
        thaw.restore(tmp_path / "m.thaw", into=target)


def test_names_that_differ_in_no_prefix_get_no_such_hint(tmp_path: Path) -> None:
    thaw.freeze({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "m.thaw")
    into = {"a": torch.zeros(1), "c": torch.zeros(1)}
    with pytest.raises(thaw.MismatchError, match="strict=False restores what both have"):
        thaw.restore(tmp_path / "m.thaw", into=into)


def test_restoring_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    named = {f"module.{name}": tensor for name, tensor in Net().state_dict().items()}
    thaw.freeze(named, tmp_path / "m.thaw")
    with pytest.raises(thaw.MismatchError, match=r"none of its names \(.* with 'module\.'"):
        thaw.restore(tmp_path / "m.thaw", into=Net(), strict=False)
    with pytest.raises(thaw.MismatchError, match=r"none of its names$"):
        thaw.restore(tmp_path / "m.thaw", into={"x": torch.ones(1)}, strict=False)
    with pytest.raises(thaw.MismatchError, match=r"none of its names$"):
        thaw.restore(tmp_path / "m.thaw", into={}, strict=False)
    thaw.freeze({}, tmp_path / "empty.thaw")
    with pytest.raises(thaw.MismatchError, match=r"none of its names$"):
        thaw.restore(tmp_path / "empty.thaw", into=Net(), strict=False)
    assert len(thaw.restore(tmp_path / "empty.thaw", into={}, strict=False)) == 0


@pytest.fixture
def mesh() -> Iterator[object]:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_distributed_tensors_are_refused_by_name(mesh: object, tmp_path: Path) -> None:
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [Shard(0)]))
    wanted = r"'weight' is a DTensor, .*to_local\(\), placed S.*\(.*0\).*shard="
    with pytest.raises(TypeError, match=wanted):
        thaw.freeze(module, tmp_path / "m.thaw")
    assert list(tmp_path.iterdir()) == []
    thaw.freeze(nn.Linear(4, 4), tmp_path / "m.thaw")
    with pytest.raises(TypeError, match=wanted):
        thaw.restore(tmp_path / "m.thaw", into=module)
    local = {
        name: each.to_local() if isinstance(each, DTensor) else each
        for name, each in module.state_dict().items()
    }
    thaw.freeze(local, tmp_path / "m.thaw", shard=thaw.Shard(0, 1))
    module.weight.to_local().data.zero_()
    thaw.restore(tmp_path / "m.thaw", into=local)
    assert module.weight.to_local().any()


def test_tensors_without_bytes_are_refused_by_name(tmp_path: Path) -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        module = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"'weight' is a FakeTensor, which .* has no bytes"):
        thaw.freeze(module, tmp_path / "m.thaw")
    thaw.freeze(nn.Linear(2, 2), tmp_path / "m.thaw")
    with pytest.raises(TypeError, match="'weight' is a FakeTensor"):
        thaw.restore(tmp_path / "m.thaw", into=module)
