"""Every vector through `thaw inspect --json --sha256`, in one process."""

import importlib.util
import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thaw.cli.app import app

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = sorted((SPEC / "vectors").glob("*valid/*.thaw"))
MAX_OPEN = 1024
_module = importlib.util.spec_from_file_location("spec_conformance", SPEC / "conformance.py")
assert _module is not None
assert _module.loader is not None
conformance = importlib.util.module_from_spec(_module)
_module.loader.exec_module(conformance)


def difference(path: Path) -> str | None:
    found = CliRunner().invoke(app, ["inspect", "--json", "--sha256", str(path)])
    done = subprocess.CompletedProcess(
        [], found.exit_code, found.stdout.encode(), found.stderr.encode()
    )
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    wrong = conformance.judge(done, expected)
    return None if wrong is None else f"{path.parent.name}/{path.stem}: {wrong}"


def test_there_are_vectors() -> None:
    assert any(path.parent.name == "valid" for path in VECTORS)
    assert any(path.parent.name == "invalid" for path in VECTORS)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_thaw_inspect(path: Path) -> None:
    wrong = difference(path)
    assert wrong is None, wrong


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, MAX_OPEN), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("few_descriptors")
def test_thaw_inspect_of_vectors_that_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SPEC))
    paths = conformance.make_more(tmp_path)
    assert [wrong for path in paths if (wrong := difference(path)) is not None] == []
