"""Memory that vLLM's models size by options of the engine: all of it is known, in this release."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from thaw.vllm.weights.scratch import scratch_names

LIMITS = re.compile(
    r"max_num_batched_tokens|max_num_seqs|max_num_reqs|max_num_tokens|max_model_len|max_tokens\b"
)
ALLOCATION = re.compile(r"torch\.(zeros|empty|ones|full|arange|rand|randn)")
# The runner, a builder of metadata, or a module of Python's holds these; no model does.
ELSEWHERE = {
    "DiffusionGemmaRequestStates",
    "DiffusionGemmaModelState",
    "DiffusionSampler",
    "LongcatNgramModelState",
    "RoutedExpertsCapturer",
    "SparseMLACommonMetadataBuilder",
    "StaticSinkAttentionBuilder",
    "WhisperCausalAttentionWithBlockPoolingBuilder",
    "create_static_sink_attention_backend",
    "create_whisper_attention_backend_with_block_pooling",
    "init_aiter_topK_meta_data",
}
# A model has it by the name `routing_sink`.
HELD_BY_ANOTHER_NAME = {"RoutedExpertsSink"}


def allocations(path: Path) -> Iterator[tuple[str, str]]:
    """Name what is sized by a limit where a class is made, and the class, or the function."""
    tree = ast.parse(path.read_text())
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.ClassDef | ast.Module):
            continue
        for function in (each for each in owner.body if isinstance(each, ast.FunctionDef)):
            name = owner.name if isinstance(owner, ast.ClassDef) else function.name
            if re.match(r"__init__|_?(init|make|create|alloc|process_weights)", function.name):
                yield from ((name, each) for each in _sized_by_limits(function))


def _sized_by_limits(function: ast.FunctionDef) -> Iterator[str]:
    statements = [
        each for each in ast.walk(function) if isinstance(each, ast.Assign | ast.AnnAssign)
    ]
    limits: set[str] = set()
    for statement in statements:
        if statement.value is not None and _uses(statement.value, limits):
            limits |= {_said(each) for each in _targets(statement)}
    for statement in statements:
        calls = [
            each
            for each in ast.walk(statement.value or ast.Pass())
            if isinstance(each, ast.Call) and ALLOCATION.fullmatch(_said(each.func))
        ]
        if any(_uses(each, limits) for each in calls):
            yield from (_said(each).removeprefix("self.") for each in _targets(statement))


def _uses(node: ast.AST, limits: set[str]) -> bool:
    named = {_said(each) for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute)}
    return bool(named & limits or LIMITS.search(_said(node)))


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _said(node: ast.AST) -> str:
    return ast.unparse(node)


def found_in(folder: Path) -> set[tuple[str, str, str]]:
    return {
        (path.stem, owner, name)
        for part in ("models", "layers")
        for path in sorted((folder / "model_executor" / part).rglob("*.py"))
        for owner, name in allocations(path)
        if name.isidentifier()
    }


def test_all_that_vllm_sizes_by_a_limit_is_known_here() -> None:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("needs vllm")
    found = found_in(Path(spec.origin).parent)
    known = {each for each in found if each[2] in scratch_names() or each[1] in ELSEWHERE}
    assert {name for *_, name in known} >= {"deepstack_input_embeds", "topk_indices_buffer"}
    rest = {each for each in found - known if each[1] not in HELD_BY_ANOTHER_NAME}
    # What is new here is memory for a batch, for thaw/vllm/weights/scratch.py, or it is a weight.
    assert rest == set()


MADE = """
class Model(nn.Module):
    def __init__(self, vllm_config):
        tokens = vllm_config.scheduler_config.max_num_batched_tokens
        rows = tokens * 2
        self.direct = torch.zeros(vllm_config.model_config.max_model_len, 3)
        self.later = [torch.empty(rows, 3) for _ in range(2)]
        passed_on = torch.full((tokens,), -1)
        self.weight = torch.zeros(3, vllm_config.model_config.get_hidden_size())
        self.limit = tokens
"""


def test_the_search_finds_what_follows_from_a_limit(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(MADE)
    assert set(allocations(tmp_path / "made.py")) == {
        ("Model", "direct"),
        ("Model", "later"),
        ("Model", "passed_on"),
    }
