"""docs/sessions.md: its commands run, its table is made, and no reason and no field is left out."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from made_sessions import age, freeze, session

import thaw
from thaw.vllm.kv import binding, lookup
from thaw.vllm.kv.record import Group, Layer, Session

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "sessions.md").read_text()
sys.path.insert(0, str(ROOT / "scripts"))

import make_session_sizes as sizes  # noqa: E402

MODELS = json.loads(sizes.MODELS.read_text())


def commands() -> list[str]:
    return re.findall(r"^    (thaw .*)$", PAGE, re.MULTILINE)


def first_cells(head: str) -> list[str]:
    """Return the first column of the table that begins with these heads."""
    (rows,) = re.findall(rf"^\| {head} \|.*\n\| --- .*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [row.split("|")[1].strip() for row in rows.splitlines()]


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir()
    alice = freeze(tmp_path / "sessions" / "alice.thaw")
    age(alice, frozen_s=900, used_s=500)
    freeze(tmp_path / "sessions" / "bob.thaw", ranks=2)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert len(commands()) == 5
    for command in commands():
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert re.search(r"alice|(would remove|removed) 0 sessions", done.stdout), command
    assert len(list((tmp_path / "sessions").iterdir())) == 2


def test_the_table_is_made() -> None:
    assert sizes.page(PAGE) == PAGE
    assert first_cells("model") == list(MODELS["models"])


def test_every_reason_is_explained() -> None:
    named = {cell.strip("`") for cell in first_cells("reason")}
    words = {
        getattr(module, name)
        for module, names in (
            (binding, ("BLOCK_SIZE", "RANKS", "GROUPS", "LAYOUT", "FINGERPRINT", "ENGINE")),
            (lookup, ("INPUTS", "WINDOW", "STATES")),
        )
        for name in names
    }
    assert named == words | {"damaged", "gone", "failed"}


def test_every_member_of_a_session_is_explained() -> None:
    told = {each.name for each in fields(Session)} - {"hashes"}
    assert [name for name in told if f"`{name}`" not in PAGE] == []


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    anchors = re.findall(r"\]\((\S+\.md)#(\S+)\)", PAGE)
    for page, anchor in anchors:
        text = (ROOT / "docs" / page).read_text().lower()
        heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {head.replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    ("name", "token_nbytes"),
    [
        ("Llama-3.1-8B", 2 * 32 * 8 * 128 * 2),
        ("Qwen2.5-7B", 2 * 28 * 4 * 128 * 2),
        ("Gemma-2-27B", 2 * 23 * 16 * 128 * 2),
        ("Gemma-3-27B", 2 * 10 * 16 * 128 * 2),
        ("gpt-oss-20b", 2 * 12 * 8 * 64 * 2),
        ("DeepSeek-V3", 61 * 576 * 2),
        ("Phi-3-mini-128k", 2 * 32 * 32 * 96 * 2),
    ],
)
def test_bytes_of_a_token(name: str, token_nbytes: int) -> None:
    model = sizes.Model.of(MODELS["models"][name])
    assert model.token_nbytes == token_nbytes
    assert f"| {token_nbytes:,} |" in PAGE


def test_what_65_blocks_of_llama_have() -> None:
    model = sizes.Model.of(MODELS["models"]["Llama-3.1-8B"])
    assert model.nbytes(65 * 16 + 15, 16) == 136_314_880


@pytest.mark.parametrize(("tokens", "window"), [(16, 33), (48, 33), (160, 33), (160, 34), (160, 1)])
def test_a_file_has_the_bytes_that_the_table_says(tokens: int, window: int, tmp_path: Path) -> None:
    model = sizes.Model(full=1, sliding=3, layer_nbytes=4, window=window, longest=1000)
    blocks = tokens // 16
    kept = min(blocks, max(model.window_tokens(16) // 16, 1))
    names = [f"layers.{number}" for number in range(4)]
    said = replace(
        session(tokens),
        groups=(
            Group("full", 16, None, 0, blocks, (names[0],)),
            Group("sliding-window", 16, window, blocks - kept, kept, tuple(names[1:])),
        ),
        layers=dict.fromkeys(names, Layer((None, 1, 16, 2), (0, 1, 2, 3), 1, "FLASH", "auto")),
    )
    path = freeze(tmp_path / "a.thaw", said)
    with thaw.open(path) as snapshot:
        assert Session.of(snapshot).groups == said.groups
        beyond = 3 * 4 * 16 if window == 1 else 0  # a group has one block at least
        assert snapshot.nbytes == model.nbytes(tokens + 15, 16) + beyond
    if kept < blocks and kept > 1:
        less = replace(said.groups[1], first_block=blocks - kept + 1, blocks=kept - 1)
        groups = (said.groups[0], less)
        with (
            thaw.open(freeze(tmp_path / "b.thaw", replace(said, groups=groups))) as snapshot,
            pytest.raises(thaw.FormatError, match="its window needs"),
        ):
            Session.of(snapshot)


@pytest.mark.parametrize("kind", ["Gemma2Config", "Gemma3TextConfig", "GptOssConfig"])
def test_patterns_of_windows_are_those_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    prefix = {"Gemma2Config": "Gemma-2", "Gemma3TextConfig": "Gemma-3", "GptOssConfig": "gpt-oss"}
    found = {n: c for n, c in MODELS["models"].items() if n.startswith(prefix[kind])}
    assert len(found) == 2
    for config in found.values():
        model = sizes.Model.of(config)
        layers = getattr(transformers, kind)(num_hidden_layers=config["num_hidden_layers"])
        assert layers.layer_types.count("full_attention") == model.full
        assert layers.layer_types.count("sliding_attention") == model.sliding


def test_dtypes_have_the_bytes_that_torch_says() -> None:
    for name, itemsize in sizes.ITEMSIZES.items():
        assert getattr(torch, name).itemsize == itemsize
