"""What holds for the source as a whole: who imports whom, and what importing does."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "thaw": ROOT / "thaw",
    "thaw_format": ROOT / "formats" / "thaw_format",
    "thaw_safetensors": ROOT / "formats" / "thaw_safetensors",
    "thaw_cupy": ROOT / "backends" / "cupy" / "thaw_cupy",
    "thaw_gds": ROOT / "backends" / "gds" / "thaw_gds",
    "thaw_native": ROOT / "backends" / "native" / "python" / "thaw_native",
}
MAY_IMPORT = {
    "thaw": {"thaw", "thaw_format", "thaw_safetensors"},
    "thaw_format": {"thaw_format"},
    "thaw_safetensors": {"thaw_format", "thaw_safetensors"},
    "thaw_cupy": {"thaw", "thaw_cupy", "thaw_format"},
    "thaw_gds": {"thaw", "thaw_format", "thaw_gds"},
    "thaw_native": {"thaw", "thaw_format", "thaw_native"},
}
GPU_LIBRARIES = {"cupy", "kvikio", "vllm"}
# Subclasses of vLLM's and what belongs to them, imported only from within vLLM.
INSIDE_VLLM = {
    ROOT / "thaw" / "vllm" / "weights" / "loader.py",
    *(
        ROOT / "thaw" / "vllm" / "kv" / f"{name}.py"
        for name in ("connector", "counts", "orders", "scheduler", "specs", "transfers", "worker")
    ),
}
CODE_LOADERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
MAX_LINES = 450
# One file on purpose: it is read from top to bottom beside the specification.
LONGER = {"spec/reader.py": 720}


class Import(NamedTuple):
    """An absolute import, and whether it runs when the module is imported."""

    module: str
    where: str
    on_import: bool

    @property
    def package(self) -> str:
        return self.module.split(".")[0]


def python_files(*folders: Path) -> list[Path]:
    found = (path for folder in folders for path in folder.rglob("*.py"))
    kept = [path for path in found if not _is_generated(path.relative_to(ROOT))]
    assert kept
    return sorted(kept)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _is_generated(path: Path) -> bool:
    return path.parts[0] in {"build", "dist"} or any(part.startswith(".") for part in path.parts)


def imports(path: Path) -> list[Import]:
    return list(_imports(ast.parse(path.read_text()), path, on_import=True))


def _imports(node: ast.AST, path: Path, *, on_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        where = f"{relative(path)}:{getattr(child, 'lineno', 0)}"
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, where, on_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield Import(child.module or "", where, on_import)
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        )
        yield from _imports(child, path, on_import=on_import and not later)


def is_ours(package: str) -> bool:
    return package == "thaw" or package.startswith("thaw_")


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_run_one_way(name: str) -> None:
    for each in (each for path in python_files(PACKAGES[name]) for each in imports(path)):
        if is_ours(each.package):
            assert each.package in MAY_IMPORT[name], each


@pytest.mark.parametrize("name", PACKAGES)
def test_no_gpu_library_is_imported_at_module_scope(name: str) -> None:
    paths = (path for path in python_files(PACKAGES[name]) if path not in INSIDE_VLLM)
    for each in (each for path in paths for each in imports(path)):
        assert not (each.on_import and each.package in GPU_LIBRARIES), each


def test_the_specification_imports_nothing_of_ours() -> None:
    for each in (each for path in python_files(ROOT / "spec") for each in imports(path)):
        assert not is_ours(each.package), each


@pytest.mark.parametrize("name", ["reader", "session_reader"])
def test_the_specification_s_readers_need_the_standard_library_alone(name: str) -> None:
    beside = {path.stem for path in (ROOT / "spec").glob("*.py")}
    for each in imports(ROOT / "spec" / f"{name}.py"):
        assert each.package in sys.stdlib_module_names | beside, each


@pytest.mark.parametrize("name", PACKAGES)
def test_the_safetensors_library_is_for_tests_alone(name: str) -> None:
    for each in (each for path in python_files(PACKAGES[name]) for each in imports(path)):
        assert each.package != "safetensors", each


def test_backends_do_not_import_each_other() -> None:
    for folder in (ROOT / "backends").glob("*/thaw_*"):
        for each in (each for path in python_files(folder) for each in imports(path)):
            if is_ours(each.package):
                assert each.package in {"thaw", "thaw_format", folder.name}, each


@pytest.mark.parametrize(
    "path", python_files(ROOT / "thaw", ROOT / "formats", ROOT / "spec"), ids=relative
)
def test_no_bytes_become_code(path: Path) -> None:
    for each in imports(path):
        assert each.package not in CODE_LOADERS, each
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "__import__", "torch.load"}, (
                node.lineno
            )


def _order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_listed_and_exist(name: str) -> None:
    package = importlib.import_module(name)
    names = list(package.__all__)
    assert names == sorted(set(names), key=_order)
    assert [each for each in names if not hasattr(package, each)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_typed(name: str) -> None:
    assert (PACKAGES[name] / "py.typed").exists()


@pytest.mark.parametrize("folder", ["formats", "backends"])
def test_folders_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_what_tests_and_benchmarks_share_has_names_of_its_own() -> None:
    """Their folders are all on the path at once: of two modules of a name only one is found."""
    shared = [
        path.stem
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if not path.stem.startswith(("test_", "conftest", "__init__"))
    ]
    assert sorted({name for name in shared if shared.count(name) > 1}) == []


IMPORTING = """
import json, os, signal, sys, warnings
import logging
import torch

def state():
    return {
        "environment": dict(os.environ),
        "signals": {str(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
        "excepthook": repr(sys.excepthook),
        "filters": [str(each) for each in warnings.filters],
        "log handlers": [str(each) for each in logging.getLogger().handlers],
        "folder": os.getcwd(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "cuda": torch.cuda.is_initialized(),
    }

before = state()
import thaw, thaw_format, thaw_safetensors
modules = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"before": before, "after": state(), "modules": modules}))
"""


def test_importing_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTING]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["after"] == found["before"]
    assert found["after"]["cuda"] is False
    absent = {*GPU_LIBRARIES, "pytest", "rich", "transformers", "typer"}
    assert absent.isdisjoint(found["modules"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["thaw", "thaw_format", "thaw_safetensors"])
def test_importing_needs_no_torch(name: str, tmp_path: Path) -> None:
    code = f"import sys, {name}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", python_files(ROOT), ids=relative)
def test_files_are_small_and_clean(path: Path) -> None:
    lines = path.read_text().split("\n")
    limit = LONGER.get(path.relative_to(ROOT).as_posix(), MAX_LINES)
    assert len(lines) - 1 <= limit
    assert [number for number, line in enumerate(lines, 1) if line != line.rstrip()] == []
    assert lines[-1] == ""


def test_the_supported_pythons_are_said_alike_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = [each.rsplit(" ", 1)[1] for each in project["classifiers"] if ":: 3." in each]
    oldest, newest = said[0], said[-1]
    after = f"3.{int(newest.split('.')[1]) + 1}"
    assert project["requires-python"] == f">={oldest},<{after}"
    script = (ROOT / "scripts" / "environment.py").read_text()
    pair = re.search(r"^OLDEST, NEWEST = \((3), (\d+)\), \((3), (\d+)\)$", script, re.MULTILINE)
    assert pair
    assert [f"{pair[1]}.{pair[2]}", f"{pair[3]}.{pair[4]}"] == [oldest, newest]


def test_the_benchmark_page_is_made_from_the_raw_results() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "make_pages.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
