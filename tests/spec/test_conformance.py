"""Every vector through `thaw inspect --json --sha256`, in one process."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thaw.cli.app import app

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = sorted((SPEC / "vectors").glob("*valid/*.thaw"))
_module = importlib.util.spec_from_file_location("spec_conformance", SPEC / "conformance.py")
assert _module is not None
assert _module.loader is not None
conformance = importlib.util.module_from_spec(_module)
_module.loader.exec_module(conformance)


def test_there_are_vectors() -> None:
    assert any(path.parent.name == "valid" for path in VECTORS)
    assert any(path.parent.name == "invalid" for path in VECTORS)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_thaw_inspect(path: Path) -> None:
    found = CliRunner().invoke(app, ["inspect", "--json", "--sha256", str(path)])
    done = subprocess.CompletedProcess(
        [], found.exit_code, found.stdout.encode(), found.stderr.encode()
    )
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if "error" in expected:
        wrong = conformance.check_rejection(done, expected["error"])
    else:
        wrong = conformance.check_table(done, expected["tensors"])
    assert wrong is None, wrong
