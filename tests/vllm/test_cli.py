"""`thaw freeze --model` with a real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import thaw

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 120
SMALL = ["--skip-tokenizer-init", "--gpu-memory-utilization", "0.3", "--max_model_len=256"]
QUIET = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def folder(run_engines: Callable[..., Any]) -> Path:
    answers = run_engines("cli", [("saved", "save", {"name": "llama"})], limit_s=LIMIT_S)
    answers.value("saved")
    found: Path = answers.folder
    return found


def freeze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thaw", "freeze", "--model", "./llama", *SMALL, *arguments],
        cwd=folder,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_two_ranks_are_frozen_as_vllm_is_told_to_load_them(folder: Path) -> None:
    done = freeze(folder, "-tp", "2", "-o", "two.thaw", "--dtype", "float32", "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout)
    assert (found["kind"], found["ranks"]) == ("loaded", 2)
    assert "INFO" in done.stderr
    ranks = [thaw.restore(folder / "two.thaw", rank=rank) for rank in range(2)]
    assert found["tensors"] == sum(map(len, ranks))
    assert [str(Path(file)) for file in found["files"]] == [
        str(path.relative_to(folder)) for path in sorted((folder / "two.thaw").iterdir())
    ]
    checkpoint = load_file(folder / "llama" / "model.safetensors")
    for name, dim in (("model.embed_tokens.weight", 0), ("model.layers.1.mlp.down_proj.weight", 1)):
        parts = [rank[name] for rank in ranks]
        assert torch.equal(torch.cat(parts, dim), checkpoint[name].float()), name


def test_an_option_that_vllm_does_not_know_is_wrong_usage(folder: Path) -> None:
    done = freeze(folder, "-o", "no.thaw", "--max-model-length", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: --max-model-length 9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (folder / "no.thaw").exists()


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--max-model-len", "100000"], "engine", "100000"),
        (["--kind", "processed", "--dtype", "float32"], "mismatch", "packed weights"),
    ],
)
def test_what_vllm_cannot_do_is_an_error(
    folder: Path, arguments: list[str], code: str, words: str
) -> None:
    done = freeze(folder, "-o", "no.thaw", *arguments, "--json", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] == code
    assert words in found["message"]
    assert "INFO" not in done.stderr
    assert not (folder / "no.thaw").exists()


@pytest.mark.matrix
def test_what_was_there_is_replaced_and_one_line_says_so(folder: Path) -> None:
    (folder / "one.thaw").write_text("an older one")
    done = freeze(folder, "-o", "one.thaw", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr[-6000:]
    (line,) = done.stdout.splitlines()
    tensors = thaw.restore(folder / "one.thaw")
    assert line.startswith(f"✓ froze {len(tensors)} tensors, ")
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(tensors[name], load_file(folder / "llama" / "model.safetensors")[name])
