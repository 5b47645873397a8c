"""Quantized modules of the libraries that people use, on a CPU: computed alike, or refused."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import thaw

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:Please use quant_min:UserWarning",
    "ignore:.*quantized tensor creation functions:UserWarning",
)


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.linspace(-1, 1, 256).reshape(2, 128))


def layer(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(128, 64)


@pytest.fixture(scope="module")
def bitsandbytes() -> Iterator[ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch says while it is imported
        yield pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def torchao() -> Iterator[ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao", reason="torchao is not installed")
        from torchao import quantization

        yield quantization


def eight_bits(library: ModuleType, seed: int, used: bool) -> nn.Module:
    plain = layer(seed)
    made = library.nn.Linear8bitLt(128, 64, has_fp16_weights=False)
    made.load_state_dict(plain.state_dict())
    made = nn.Sequential(made.to("cpu"))
    if used:
        outputs(made)
    return made


def four_bits(library: ModuleType, seed: int, **options: object) -> nn.Module:
    plain = layer(seed)
    made = library.nn.Linear4bit(128, 64, compute_dtype=torch.float32, **options)
    made.load_state_dict(plain.state_dict())
    return nn.Sequential(made.to("cpu"))


def assert_moves(make: Callable[[int], nn.Module], tmp_path: Path) -> thaw.Restored:
    one, other = make(0), make(1)
    wanted = outputs(one)
    assert not torch.equal(outputs(make(1)), wanted)
    thaw.freeze(make(0), tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw", into=other)
    assert torch.equal(outputs(other), wanted)
    return restored


@pytest.mark.parametrize("used", [False, True])
def test_eight_bits_of_bitsandbytes(bitsandbytes: ModuleType, used: bool, tmp_path: Path) -> None:
    restored = assert_moves(lambda seed: eight_bits(bitsandbytes, seed, used), tmp_path)
    assert {"0.weight", "0.bias", "0.SCB"} <= set(restored)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_of_bitsandbytes(
    bitsandbytes: ModuleType, kind: str, nested: bool, tmp_path: Path
) -> None:
    options = {"quant_type": kind, "compress_statistics": nested}
    restored = assert_moves(lambda seed: four_bits(bitsandbytes, seed, **options), tmp_path)
    assert {"0.weight", "0.bias", "0.weight.absmax", "0.weight.quant_map"} <= set(restored)


def test_four_bits_of_another_kind_are_refused(bitsandbytes: ModuleType, tmp_path: Path) -> None:
    thaw.freeze(four_bits(bitsandbytes, 0, quant_type="nf4"), tmp_path / "m.thaw")
    other = four_bits(bitsandbytes, 0, quant_type="fp4")
    before = outputs(other)
    with pytest.raises(thaw.MismatchError, match=r"quant_type 'nf4' in the snapshot, 'fp4'|fp4"):
        thaw.restore(tmp_path / "m.thaw", into=other)
    assert torch.equal(outputs(other), before)


def test_parameters_of_bitsandbytes_in_another_module(
    bitsandbytes: ModuleType, tmp_path: Path
) -> None:
    def make(seed: int) -> nn.Module:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = four_bits(bitsandbytes, seed)[0].weight

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return bitsandbytes.matmul_4bit(x, self.w.t(), quant_state=self.w.quant_state)

        return Own()

    assert_moves(make, tmp_path)


CONFIGURATIONS = ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_subclasses_of_torchao(torchao: ModuleType, configuration: str, tmp_path: Path) -> None:
    def make(seed: int) -> nn.Module:
        module = nn.Sequential(layer(seed))
        torchao.quantize_(module, getattr(torchao, configuration)())
        return module

    restored = assert_moves(make, tmp_path)
    assert {"0.weight.qdata", "0.weight.scale", "0.bias"} <= set(restored)
    thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    assert set(thaw.restore(tmp_path / "m.safetensors")) == set(restored)


def test_subclasses_of_torchao_that_compute_otherwise(torchao: ModuleType, tmp_path: Path) -> None:
    one, other = (nn.Sequential(layer(0)) for _ in range(2))
    torchao.quantize_(one, torchao.Int8WeightOnlyConfig())
    torchao.quantize_(other, torchao.Int8DynamicActivationInt8WeightConfig())
    assert not torch.equal(outputs(one), outputs(other))
    thaw.freeze(one, tmp_path / "m.thaw")
    with pytest.raises(thaw.MismatchError, match=r"'0\.weight' has act_quant_kwargs None in the"):
        thaw.restore(tmp_path / "m.thaw", into=other)
    thaw.freeze(other, tmp_path / "m.thaw")
    with pytest.raises(thaw.MismatchError, match=r"'0\.weight' has act_quant_kwargs Q"):
        thaw.restore(tmp_path / "m.thaw", into=one)


@pytest.mark.parametrize("scheme", ["per_tensor", "per_channel"])
def test_packed_parameters_of_torch(tmp_path: Path, scheme: str) -> None:
    from torch.ao import quantization

    def make(seed: int) -> nn.Module:
        chosen = {
            "per_tensor": quantization.default_dynamic_qconfig,
            "per_channel": quantization.per_channel_dynamic_qconfig,
        }[scheme]
        plain = nn.Sequential(layer(seed))
        return quantization.quantize_dynamic(plain, {nn.Linear: chosen}, dtype=torch.qint8)

    assert_moves(make, tmp_path)
    with pytest.raises(TypeError, match=r"'0\._packed_params\.dtype' is state of the module"):
        thaw.convert(tmp_path / "m.thaw", tmp_path / "m.safetensors")
    with pytest.raises(
        thaw.MismatchError, match=r"'0\._packed_params\.dtype' is not in the target"
    ):
        thaw.restore(tmp_path / "m.thaw", into=nn.Sequential(layer(0)))


def test_packed_parameters_of_torch_that_are_no_tensors(tmp_path: Path) -> None:
    from torch.ao.quantization import quantize_dynamic

    module = nn.ModuleDict({"lstm": nn.LSTM(8, 16)})
    module = quantize_dynamic(module, {nn.LSTM}, dtype=torch.qint8)
    wanted = r"cannot be frozen: 'lstm\._all_weight_values\.0\.param' \(ScriptObject\)"
    with pytest.raises(TypeError, match=wanted):
        thaw.freeze(module, tmp_path / "m.thaw")
    assert list(tmp_path.iterdir()) == []


def test_fake_quantization_of_torch(tmp_path: Path) -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    def make(seed: int) -> nn.Module:
        module = nn.Sequential(layer(seed))
        module.qconfig = get_default_qat_qconfig("x86")
        made = prepare_qat(module.train())
        outputs(made)
        return made.eval()

    assert_moves(make, tmp_path)
