"""Real architectures: freeze, restore in a new process, compare every byte and the logits."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import thaw

SCRIPT = Path(__file__).with_name("build.py")
_spec = importlib.util.spec_from_file_location("thaw_test_models", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)

pytestmark = pytest.mark.models


def restored_elsewhere(name: str, path: Path) -> dict[str, dict[str, str]]:
    command = [sys.executable, SCRIPT, name, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", models.MODELS)
def test_a_module_comes_back_in_a_new_process(name: str, tmp_path: Path) -> None:
    model = models.build(name, models.SEED_OF_THE_FROZEN)
    thaw.freeze(model, tmp_path / "m.thaw")
    wanted = models.fingerprint(model)
    found = restored_elsewhere(name, tmp_path / "m.thaw")
    assert found["before"]["logits"] != wanted["logits"]
    assert found["after"] == wanted


@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "llama-fp8"])
def test_a_sharded_checkpoint_comes_back(name: str, tmp_path: Path) -> None:
    model = models.build(name, models.SEED_OF_THE_FROZEN)
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    model.save_pretrained(folder, max_shard_size="200KB")
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1
    thaw.convert(folder, tmp_path / "m.thaw")
    thaw.convert(tmp_path / "m.thaw", out, format="safetensors")
    assert sorted(path.name for path in out.glob("*.safetensors")) == files
    for file in files:
        assert_same_file(folder / file, out / file)
    again = models.build(name, models.SEED_OF_THE_FROZEN).__class__.from_pretrained
    assert models.fingerprint(again(folder)) == models.fingerprint(again_from(again, folder, out))


def again_from(load: object, folder: Path, out: Path) -> torch.nn.Module:
    for file in folder.glob("*.json"):
        if not (out / file.name).exists():
            (out / file.name).write_bytes(file.read_bytes())
    return load(out)  # type: ignore[operator]


def assert_same_file(a: Path, b: Path) -> None:
    one, two = load_file(a), load_file(b)
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        assert torch.equal(tensor.view(torch.uint8), two[name].view(torch.uint8)), name


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "llama-bf16"])
def test_a_checkpoint_fills_a_module(name: str, tmp_path: Path) -> None:
    model = models.build(name, models.SEED_OF_THE_FROZEN)
    model.save_pretrained(tmp_path / "checkpoint")
    other = models.build(name, models.SEED_OF_THE_FROZEN + 1)
    for path in (tmp_path / "checkpoint" / "model.safetensors", tmp_path / "checkpoint"):
        try:
            thaw.restore(path, into=other)
        except thaw.MismatchError as error:
            pytest.fail(str(error))
    assert models.fingerprint(other) == models.fingerprint(model)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_a_restored_model_is_saved_by_transformers(name: str, tmp_path: Path) -> None:
    model = models.build(name, models.SEED_OF_THE_FROZEN)
    thaw.freeze(model, tmp_path / "m.thaw")
    other = models.build(name, models.SEED_OF_THE_FROZEN + 1)
    state = thaw.restore(tmp_path / "m.thaw", storages="own")
    persistent = {key: tensor for key, tensor in state.items() if key in other.state_dict()}
    other.load_state_dict(persistent, assign=True)
    for each, folder in ((model, "one"), (other, "two")):
        each.save_pretrained(tmp_path / folder)
    one, two = (tmp_path / folder / "model.safetensors" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_export_is_what_transformers_saves(name: str, tmp_path: Path) -> None:
    model = models.build(name, models.SEED_OF_THE_FROZEN)
    model.save_pretrained(tmp_path / "saved")
    thaw.freeze(model, tmp_path / "m.thaw")
    thaw.convert(tmp_path / "m.thaw", tmp_path / "out", format="safetensors")
    saved, out = (load_file(tmp_path / each / "model.safetensors") for each in ("saved", "out"))
    assert out.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, out[key]) for key, tensor in saved.items())
