"""Plugins: a third party's package in an environment of its own, and broken ones beside it."""

import json
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import thaw
from thaw.plugins import choosing, host
from thaw.plugins.reference import ReferenceBackend

PLUGINS = Path(__file__).parents[1] / "plugins"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an environment that sees this one's packages and has the toy and the broken plugins."""
    folder = tmp_path_factory.mktemp("scratch")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    paths = [here, str(ROOT), str(ROOT / "formats")]
    (site / "outer.pth").write_text("".join(f"{path}\n" for path in paths))
    for name in ("toy", "broken"):
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
        options = ["--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*pip, *options, str(PLUGINS / name)], check=True)
    return python


def run(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_toy_passes_the_kit(scratch: Path, tmp_path: Path) -> None:
    command = [scratch, "-m", "pytest", "-q", "-p", "no:cacheprovider", PLUGINS / "toy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_broken_plugins_are_reported_and_the_rest_works(scratch: Path) -> None:
    code = "import thaw, json; print(json.dumps({b.name: b.error for b in thaw.backends()}))"
    errors = json.loads(run(scratch, code))
    assert errors["reference"] is None
    assert errors["toy"] is None
    assert errors["broken-import"] == "RuntimeError: libnothing.so.1 is missing"
    assert errors["broken-missing"].startswith("ModuleNotFoundError")
    assert errors["broken-hook"] == "OSError: no driver"
    assert "is no thaw.Backend" in errors["broken-type"]
    assert errors["broken-name"] == "ValueError: the name 'reference' is taken"


def test_the_toy_is_chosen_by_name_and_by_auto(scratch: Path, tmp_path: Path) -> None:
    code = f"""
import thaw, torch
tensors = {{"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.bfloat16)}}
print(thaw.freeze(tensors, {str(tmp_path / "x.thaw")!r}).backend)
for name in ("auto", "toy", "reference"):
    restored = thaw.restore({str(tmp_path / "x.thaw")!r}, backend=name)
    assert torch.equal(restored["a"], tensors["a"]) and torch.equal(restored["b"], tensors["b"])
    print(restored.report.backend, restored.report.route)
"""
    written, by_auto, *by_name = run(scratch, code).splitlines()
    # The native backend asks to be chosen where it is installed.
    preferred = "native" if find_spec("thaw_native") else "toy"
    assert {written, by_auto.split()[0]} == {preferred}
    assert by_name == ["toy toy-bytearray", "reference host"]


class FixedChoice:
    @thaw.hookimpl
    def thaw_select_backend(self, candidates, operation):
        return candidates[-1] if operation == "read" else None


def test_a_plugin_may_choose_for_auto() -> None:
    loaded = host.load([])
    loaded.manager.register(FixedChoice())
    chosen = loaded.manager.hook.thaw_select_backend(
        candidates=["x", "y"], operation="read", device=torch.device("cpu"), path=Path()
    )
    assert chosen == "y"


@pytest.mark.parametrize("choice", ["reference", object(), ReferenceBackend(), 7])
@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_plugin_that_chooses_what_it_was_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: object, operation: str
) -> None:
    class OddChoice:
        @thaw.hookimpl
        def thaw_select_backend(self):
            return choice

    path = tmp_path / "a.thaw"
    thaw.freeze({"a": torch.ones(3)}, path, backend="reference")
    loaded = host.load([])
    loaded.manager.register(OddChoice())
    monkeypatch.setattr(choosing, "registry", lambda: loaded)
    with pytest.raises(thaw.BackendError) as caught:
        if operation == "read":
            thaw.restore(path)
        else:
            thaw.freeze({"a": torch.ones(3)}, path)
    assert f"chose {choice!r} to {operation} on cpu" in str(caught.value)
    assert "(reference)" in str(caught.value)


def test_auto_picks_once_for_all_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        save_file({name: torch.ones(3)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in "abc"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with caplog.at_level("INFO", "thaw"):
        thaw.restore(tmp_path)
        assert len(caplog.records) == 1
        thaw.restore(tmp_path, into={name: torch.zeros(3) for name in "abc"})
        assert len(caplog.records) == 2


def test_an_unknown_backend_is_an_error_that_lists_the_known(tmp_path: Path) -> None:
    thaw.freeze({"a": torch.ones(1)}, tmp_path / "a.thaw")
    with pytest.raises(thaw.UnknownBackendError, match=r"no backend 'warp'.*auto.*reference"):
        thaw.restore(tmp_path / "a.thaw", backend="warp")


def test_an_unavailable_backend_is_an_error_with_the_reason(tmp_path: Path) -> None:
    thaw.freeze({"a": torch.ones(1)}, tmp_path / "a.thaw")
    with pytest.raises(thaw.UnavailableBackendError, match="not supported") as caught:
        thaw.restore(tmp_path / "a.thaw", device="meta", backend="reference")
    assert caught.value.reason
