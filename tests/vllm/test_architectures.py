"""Real engines of several architectures: what snapshots of both kinds decode, beside the default.

Every run takes a few that differ where it matters: tied weights, experts, what only one model has.
All of them, in both dtypes and with two ranks, are compared by `benchmarks/engines.py decoding`;
`tests/benchmarks/test_engines_results.py` holds its committed results to what they have to cover.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 900
MATRIX_LIMIT_S = 5400
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "engines.py"
DTYPES = {"llama-tied": "float32", "mixtral": "bfloat16", "gemma2": "bfloat16"}
UNPACKED = {"worker_extension_cls": "extension.Extension"}
Steps = list[tuple[str, str, dict[str, Any]]]


def loaded(name: str, dtype: str) -> Steps:
    """Compare a snapshot of the model's folder with the folder, both packed for the CPU."""
    engine, path = {"model": name, "dtype": dtype}, f"{name}.thaw"
    return [
        (name, "save", {"name": name}),
        (f"{name}: default", "start", engine),
        (f"{name}: expected", "decode", {}),
        (f"{name}: default stopped", "stop", {}),
        (f"{name}: frozen", "freeze", engine | {"path": path}),
        (f"{name}: loaded", "load", engine | {"snapshot": path, "verify": True}),
        (f"{name}: loaded decoded", "decode", {}),
        (f"{name}: loaded stopped", "stop", {}),
    ]


def processed(name: str, dtype: str) -> Steps:
    """Compare a snapshot of a live engine with that engine: loaded, and restored into another."""
    engine, path = {"model": name, "dtype": dtype, **UNPACKED}, f"{name} live.thaw"
    return [
        (f"{name}: live", "start", engine),
        (f"{name}: live decoded", "decode", {}),
        (f"{name}: live frozen", "freeze_live", {"path": path}),
        (f"{name}: live stopped", "stop", {}),
        (f"{name}: dummy", "start", engine | {"load_format": "dummy"}),
        (f"{name}: dummy decoded", "decode", {}),
        (f"{name}: restored", "restore_live", {"path": path}),
        (f"{name}: restored decoded", "decode", {}),
        (f"{name}: restored verified", "verify", {"path": path}),
        (f"{name}: dummy stopped", "stop", {}),
        (f"{name}: processed", "load", engine | {"snapshot": path}),
        (f"{name}: processed decoded", "decode", {}),
        (f"{name}: processed stopped", "stop", {}),
    ]


# A process that has left weights unpacked once packs none again.
STEPS = [
    ("here", "multiprocessing", {"on": False}),
    *(step for part in (loaded, processed) for each in DTYPES.items() for step in part(*each)),
    (
        "other kernels",
        "load",
        {"model": "mixtral", "snapshot": "mixtral live.thaw", "kv_cache_dtype": "fp8", **UNPACKED},
    ),
]


@pytest.fixture(scope="session")
def answers(run_engines: Callable[..., Any]) -> Any:
    return run_engines("architectures", STEPS, limit_s=LIMIT_S)


@pytest.mark.parametrize("name", DTYPES)
def test_a_loaded_snapshot_decodes_what_the_default_loader_s_weights_do(
    answers: Any, name: str
) -> None:
    expected = answers.value(f"{name}: expected")
    assert len({token for each in expected for token in each["tokens"]}) > 3
    assert answers.value(f"{name}: loaded decoded") == expected


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("way", ["processed", "restored"])
def test_a_processed_snapshot_decodes_what_its_engine_did(
    answers: Any, name: str, way: str
) -> None:
    expected = answers.value(f"{name}: live decoded")
    assert answers.value(f"{name}: dummy decoded") != expected
    assert answers.value(f"{name}: {way} decoded") == expected


@pytest.mark.parametrize("name", DTYPES)
def test_a_restored_engine_holds_the_snapshot_s_tensors(answers: Any, name: str) -> None:
    assert answers.value(f"{name}: restored verified") == []
    frozen, restored = (answers.value(f"{name}: {label}") for label in ("live frozen", "restored"))
    assert frozen["tensors"] == restored["tensors"] > 10


def test_an_engine_whose_kernels_differ_by_an_option_is_refused(answers: Any) -> None:
    refused = answers["other kernels"].error
    assert "mixtral live.thaw was processed for other kernels" in refused
    assert "impl.kv_cache_dtype is 'auto' in the snapshot, 'fp8' in this engine" in refused


@pytest.mark.matrix
def test_every_architecture_decodes_what_the_default_loader_s_weights_do(
    run_alone: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "engines_cpu.json"
    command = [sys.executable, str(BENCHMARK), "decoding", "--folder", str(tmp_path / "engines")]
    run_alone([*command, "--out", str(out)], tmp_path, MATRIX_LIMIT_S)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) >= 48
    assert [row for row in rows if not row["passed"]] == []
