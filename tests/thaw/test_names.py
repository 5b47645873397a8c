"""The names of `thaw`, which are looked up when they are used."""

import ast
import copy
import importlib
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import thaw_format
import thaw_safetensors
import torch

import thaw


def python(code: str) -> object:
    command = [sys.executable, "-c", f"import json, sys\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_thaw_imports_next_to_nothing() -> None:
    code = "before = set(sys.modules)\nimport thaw\n"
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    found = python(code)
    assert isinstance(found, list)
    others = [each for each in found if each.split(".")[0] not in sys.stdlib_module_names]
    assert others == ["thaw", "thaw_format", "thaw_format.lookup"]


@pytest.mark.parametrize("name", thaw.__all__)
def test_every_name_is_there_on_its_own(name: str) -> None:
    value = getattr(thaw, name)
    assert value is getattr(thaw, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == {"open": "open_snapshot"}.get(name, name)


PACKAGES = (thaw, thaw_format, thaw_safetensors)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_name_is_what_type_checkers_take_it_for(package: ModuleType) -> None:
    checked = {}
    (block,) = (
        node
        for node in ast.parse(Path(str(package.__file__)).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        module = f"{package.__name__}.{node.module}" if node.level else node.module
        checked |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    assert checked == package._PLACES
    assert set(checked) == set(package.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_no_name_is_one_of_a_module(package: ModuleType) -> None:
    # The import system sets a module as an attribute of its package, over what is there.
    folder = Path(str(package.__file__)).parent
    modules = {path.stem for path in folder.iterdir() if not path.stem.startswith("_")}
    assert modules.isdisjoint(package.__all__)


def test_a_star_takes_all_of_them() -> None:
    code = "import thaw\nnames = {}\nexec('from thaw import *', names)\n"
    code += "print(json.dumps(sorted(set(thaw.__all__) - set(names))))"
    assert python(code) == []


def test_dir_lists_them_before_they_are_used() -> None:
    code = "import thaw; print(json.dumps([sorted(set(thaw.__all__) - set(dir(thaw))), "
    code += "'torch' in sys.modules]))"
    assert python(code) == [[], False]


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module .thaw. has no attribute") as caught:
        thaw.frieze  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("frieze", thaw)
    assert not hasattr(thaw, "__wrapped__")
    with pytest.raises(ImportError, match="frieze"):
        from thaw import frieze  # noqa: F401


def test_a_class_is_pickled_by_where_it_is_defined() -> None:
    place = thaw.RankOf(1, 2)
    assert pickle.loads(pickle.dumps(place)) == copy.deepcopy(place) == place
    assert pickle.loads(pickle.dumps(thaw.restore)) is thaw.restore


@pytest.mark.parametrize(
    ("package", "before", "now"),
    [
        (thaw, "seal", "finish_ranks"),
        (thaw, "Place", "RankOf"),
        (thaw_format, "Place", "RankOf"),
    ],
)
def test_names_of_before_go_on_with_a_warning(package: ModuleType, before: str, now: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{before} is called {now} now") as caught:
        assert getattr(package, before) is getattr(package, now)
    assert caught[0].filename == __file__
    assert before not in package.__all__


def test_a_route_was_called_a_path_before(tmp_path: Path) -> None:
    frozen = thaw.freeze({"a": torch.ones(2)}, tmp_path / "a.thaw")
    restored = thaw.restore(tmp_path / "a.thaw").report
    for report in (frozen, restored):
        with pytest.warns(DeprecationWarning, match="path_ran is called route now") as caught:
            assert report.path_ran == report.route
        assert caught[0].filename == __file__
    for said in (thaw.Transfer("host"), thaw.Support(True, "", "host")):
        with pytest.warns(DeprecationWarning, match="path is called route now"):
            assert said.path == "host"


def test_a_name_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    original = thaw.verify
    with monkeypatch.context() as patch:
        patch.setattr(thaw, "verify", print)
        assert thaw.verify is print
    assert thaw.verify is original


@pytest.mark.parametrize(
    ("before", "now", "name"),
    [
        ("thaw_safetensors.shard_file", "thaw_safetensors.part_file", "write_shard_file"),
        ("thaw.vllm.identity", "thaw.vllm.weights.identity", "rank_shard"),
        ("thaw.vllm.transfer", "thaw.vllm.weights.transfer", "prepare_state"),
    ],
)
def test_modules_of_before_go_on_with_a_warning(before: str, now: str, name: str) -> None:
    sys.modules.pop(before, None)
    with pytest.warns(DeprecationWarning, match="now") as caught:
        module = importlib.import_module(before)
    assert getattr(module, name) is getattr(
        importlib.import_module(now), name.replace("shard_file", "part_file")
    )
    assert len(caught) == 1
