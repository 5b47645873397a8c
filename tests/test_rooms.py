"""The house: rooms import one way, and no two files import each other."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "thaw": ROOT,
    "thaw_format": ROOT / "formats",
    "thaw_safetensors": ROOT / "formats",
    "thaw_cupy": ROOT / "backends" / "cupy",
    "thaw_gds": ROOT / "backends" / "gds",
    "thaw_native": ROOT / "backends" / "native" / "python",
}
FLOORS = (
    {"errors", "renaming", "version"},
    {"seam"},
    {"tensors", "reports", "cuda"},
    {"plugins"},
    {"restoring", "testing"},
    {"aliasing"},
    {"freezing", "verifying", "comparing", "converting"},
    {"vllm", "bench"},
    {"engines"},
    {"cli"},
    {"__main__"},
)
"""The rooms of `thaw`, from the ground up; a room imports from those below it alone."""
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
PUBLIC = LEVEL["vllm"]
"""From here on up, what users call is called as users call it: by `import thaw`."""
Graph = Mapping[str, set[str]]


def modules(package: str, folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found
    return found


def graph(package: str, folder: Path) -> Graph:
    """Say of each module which of its own package it imports, when it is imported or later."""
    known = modules(package, folder)
    return {
        name: {each for each in _imported(path, name, known) if each != name}
        for name, path in known.items()
    }


def _imported(path: Path, name: str, known: Mapping[str, Path]) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                within = f"{module}.{alias.name}"
                if within in known or module in known:
                    yield within if within in known else module


def circles(edges: Graph) -> list[set[str]]:
    """Find sets of modules each of which leads to all others of its set."""
    reach = {name: _reachable(name, edges) for name in edges}
    together = {frozenset(each for each in reach[name] if name in reach[each]) for name in edges}
    return sorted(map(set, together - {frozenset()}), key=sorted)


def _reachable(start: str, edges: Graph) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for each in edges.get(waiting.pop(), set()) - found:
            found.add(each)
            waiting.append(each)
    return found


def upward(edges: Graph) -> list[str]:
    """List imports between rooms of `thaw` that do not lead down."""
    return [
        f"{name} imports {each}"
        for name, imported in edges.items()
        for each in sorted(imported)
        if not _leads_down(name, each)
    ]


def _leads_down(name: str, imported: str) -> bool:
    if name == "thaw":
        return True
    room = name.split(".")[1]
    if imported == "thaw":
        return LEVEL[room] >= PUBLIC
    other = imported.split(".")[1]
    return room == other or LEVEL[other] < LEVEL[room]


def test_rooms_import_one_way() -> None:
    assert upward(graph("thaw", ROOT)) == []


def test_every_room_is_on_a_floor() -> None:
    rooms = {name.split(".")[1] for name in modules("thaw", ROOT) if name != "thaw"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other(package: str) -> None:
    # What a package hands out it imports from its files, which import it in turn only by rooms
    # above those: `thaw` itself is in no circle, or all of it would be one.
    edges = graph(package, PACKAGES[package])
    inner = {name: imported - {package} for name, imported in edges.items() if name != package}
    assert circles(inner) == []


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("seam/plan.py", "from ..restoring.api import restore", "thaw.restoring.api"),
        ("seam/plan.py", "def f():\n    from thaw.plugins import host", "thaw.plugins.host"),
        ("tensors/census.py", "import thaw", "thaw"),
        ("bench/rows.py", "from ..cli.text import size", "thaw.cli.text"),
    ],
)
def test_an_import_that_leads_up_is_found(file: str, line: str, found: str, tmp_path: Path) -> None:
    _copy(tmp_path, file, line)
    name = "thaw." + file.removesuffix(".py").replace("/", ".")
    assert upward(graph("thaw", tmp_path)) == [f"{name} imports {found}"]


def test_a_circle_is_found(tmp_path: Path) -> None:
    _copy(tmp_path, "tensors/strides.py", "from .census import take_census")
    _copy(tmp_path, "tensors/census.py", "def f():\n    from .strides import normal")
    inner = {k: v - {"thaw"} for k, v in graph("thaw", tmp_path).items() if k != "thaw"}
    assert {"thaw.tensors.strides", "thaw.tensors.census"} in circles(inner)


def _copy(folder: Path, changed: str, line: str) -> None:
    for path in modules("thaw", ROOT).values():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            copy.write_text(path.read_text())
    with (folder / "thaw" / changed).open("a") as file:
        file.write(f"\n\n{line}\n")
