"""A backend, a format and a source that are no part of thaw, by exported names alone."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

import thaw
from thaw.plugins import choosing, host
from thaw.testing import BackendTests

OUTSIDE = Path(__file__).parents[1] / "plugins" / "outside"
sys.path.insert(0, str(OUTSIDE))
HttpSource: Any = import_module("http_source").HttpSource


class TestSlowBackend(BackendTests):
    def make_backend(self) -> Any:
        return import_module("slow_backend").SlowBackend()


@pytest.mark.parametrize("path", sorted(OUTSIDE.glob("*.py")), ids=lambda path: path.stem)
def test_they_use_exported_names_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("thaw"), ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert all(
                alias.name == "thaw" or not alias.name.startswith("thaw") for alias in node.names
            )
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "thaw":
            assert node.attr in thaw.__all__, node.attr


@pytest.mark.parametrize("backend", ["cupy", "gds", "native"])
def test_so_do_the_backends_of_this_repository(backend: str) -> None:
    folders = (OUTSIDE.parents[2] / "backends" / backend).rglob("thaw_*/*.py")
    paths = [path for path in folders if "build" not in path.parts and "target" not in path.parts]
    assert paths
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                module = node.module or ""
                if module == "thaw":
                    assert {alias.name for alias in node.names} <= set(thaw.__all__), path
                elif module.startswith("thaw"):
                    assert module.startswith("thaw.cuda"), f"{path}: {module}"


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the format and the backend installed as plugins."""
    points = [
        EntryPoint(name, name, host.ENTRY_POINT_GROUP) for name in ("raw_format", "slow_backend")
    ]
    loaded = host.load(points)
    assert loaded.broken == []
    for module in (choosing, host):
        monkeypatch.setattr(module, "registry", lambda: loaded)


class Handler(BaseHTTPRequestHandler):
    """Serves files by ranges."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(200, b"", {"Content-Length": str(len(self._data()))})

    def do_GET(self) -> None:
        data = self._data()
        if self.headers["If-Match"] != self._tag(data):
            self._answer(412, b"", {"Content-Length": "0"})
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        self._answer(206, part, {"Content-Length": str(len(part))})

    def _data(self) -> bytes:
        return self.files[self.path.lstrip("/")]

    def _tag(self, data: bytes) -> str:
        return f'"{hashlib.sha256(data).hexdigest()}"'

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "ETag": self._tag(self._data())}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def served(**files: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    held = {name.replace("_", "."): data for name, data in files.items()}
    handler = type("Serving", (Handler,), {"files": held})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", held
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(300_000, dtype=torch.int32), "b": torch.rand(7, 5)}


@pytest.mark.parametrize("ending", ["thaw", "safetensors"])
def test_a_source_behind_http(
    ending: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"m.{ending}"
    thaw.freeze(tensors, tmp_path / "m.thaw")
    if ending != "thaw":
        thaw.convert(tmp_path / "m.thaw", path)
    with served(**{f"m_{ending}": path.read_bytes()}) as (url, _):
        source = HttpSource(f"{url}/m.{ending}")
        restored = thaw.restore(source)
        assert source.is_closed
        assert restored.report.backend == "reference", "native reads files alone"
        for name, tensor in tensors.items():
            assert torch.equal(restored[name], tensor)
        into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        with thaw.open(HttpSource(f"{url}/m.{ending}")) as snapshot:
            thaw.restore(snapshot, into=into)
            assert all(torch.equal(into[name], tensor) for name, tensor in tensors.items())
        verified = thaw.verify(HttpSource(f"{url}/m.{ending}"))
        assert verified.has_digests == (ending == "thaw")


def test_damage_behind_http_is_found(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    data = bytearray((tmp_path / "m.thaw").read_bytes())
    with thaw.open(tmp_path / "m.thaw") as snapshot:
        data[snapshot.storages[0].offset] ^= 1
    with served(m_thaw=bytes(data)) as (url, _), pytest.raises(thaw.ChecksumError, match="'a'"):
        thaw.restore(HttpSource(f"{url}/m.thaw"))


def test_a_file_that_is_replaced_behind_http_is_not_read_on(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    before = (tmp_path / "m.thaw").read_bytes()
    with served(m_thaw=before) as (url, files):
        snapshot = thaw.open(HttpSource(f"{url}/m.thaw"))
        files["m.thaw"] = before[:-1] + b"?"
        with snapshot, pytest.raises(thaw.TransferError, match="412"):
            thaw.restore(snapshot)


@pytest.mark.parametrize("backend", ["native", "gds", "gds-compat"])
def test_a_backend_that_cannot_read_from_a_source_is_not_used(
    backend: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    thaw.freeze(tensors, tmp_path / "m.thaw")
    with served(m_thaw=(tmp_path / "m.thaw").read_bytes()) as (url, _):
        source = HttpSource(f"{url}/m.thaw")
        mover = host.registry().backends.get(backend)
        if mover is None or not mover.probe(torch.device("cpu")).available:
            pytest.skip(f"{backend} is not for the host, or not here")
        assert not mover.serves(source)
        with pytest.raises(thaw.UnavailableBackendError, match="read from a HttpSource"):
            thaw.restore(source, backend=backend)
        assert source.is_closed


@pytest.mark.usefixtures("plugins")
def test_a_format_and_a_backend_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(range(200)))
    restored = thaw.restore(path, backend="slow")
    assert restored.report.route == "slowly"
    assert restored["bytes"].tolist() == list(range(200))
    with thaw.open(path, rank=0) as snapshot:
        assert snapshot.format == "raw"
    with pytest.raises(thaw.MismatchError, match="has no rank 1"):
        thaw.open(path, rank=1)
    with served(x_raw=path.read_bytes()) as (url, _):
        again = thaw.restore(HttpSource(f"{url}/x.raw"), backend="slow")
        assert again["bytes"].tolist() == list(range(200))


@pytest.mark.parametrize("read", [thaw.open, thaw.restore, thaw.verify])
def test_what_is_neither_a_path_nor_a_source(read: Any, tmp_path: Path) -> None:
    thaw.freeze({"a": torch.ones(2)}, tmp_path / "m.thaw")
    with (tmp_path / "m.thaw").open("rb") as file, pytest.raises(TypeError, match="BufferedReader"):
        read(file)
