"""What `--json` prints has the documented shape, and proves the reader."""

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import torch
from thaw_format import FileSource
from thaw_format.checksum import HostBuffer
from typer.testing import CliRunner

import thaw
from thaw.cli import needs
from thaw.cli.app import app
from thaw.cli.shapes import OUTPUTS, ErrorJSON
from thaw.engines import client

VECTORS = Path(__file__).parents[3] / "spec" / "vectors"
SESSIONS = Path(__file__).parents[3] / "spec" / "sessions"
MEMBERS = ("rank", "name", "dtype", "shape", "stride", "storage", "offset", "sha256")


def check_shape(value: Any, kind: Any) -> None:
    if is_typeddict(kind):
        assert kind.__required_keys__ <= value.keys() <= kind.__annotations__.keys()
        hints = get_type_hints(kind)
        for name, member in value.items():
            check_shape(member, hints[name])
    elif get_origin(kind) is list:
        for each in value:
            check_shape(each, get_args(kind)[0])
    elif get_origin(kind) is dict:
        for each in value.values():
            if get_args(kind)[1] is not Any:
                check_shape(each, get_args(kind)[1])
    elif get_args(kind):
        fitting = [each for each in get_args(kind) if (each is NoneType) == (value is None)]
        check_shape(value, fitting[0])
    else:
        assert type(value) is kind


@pytest.mark.parametrize(
    "arguments",
    [
        ("freeze", "{d}/model.thaw", "-o", "{d}/x.thaw"),
        ("restore", "{d}/model.thaw", "--to", "{d}/out"),
        ("convert", "{d}/model.thaw", "{d}/x.safetensors"),
        ("inspect", "{d}/model.thaw"),
        ("inspect", "{d}/model.thaw", "--sha256"),
        ("inspect", "{d}/ranks.thaw", "--sha256"),
        ("inspect", "{d}/ranks.thaw", "--rank", "1"),
        ("verify", "{d}/ranks.thaw"),
        ("verify", "{d}/model.thaw"),
        ("inspect", f"{SESSIONS}/valid/media.thaw", "--sha256"),
        ("inspect", f"{SESSIONS}/valid/adapter.thaw"),
        ("verify", f"{SESSIONS}/valid/ranks.thaw"),
        ("diff", "{d}/model.thaw", "{d}/model.thaw"),
        ("diff", "{d}/model.thaw", "{d}/ranks.thaw/rank-00000-of-00002.thaw"),
        ("backends",),
        ("formats",),
        ("version",),
    ],
)
def test_shapes(arguments: tuple[str, ...], model: Path, ranks: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*(each.format(d=tmp_path) for each in arguments), "--json"])
    assert done.stderr == ""
    check_shape(json.loads(done.stdout), OUTPUTS[arguments[0]])


@pytest.mark.parametrize("verb", ["start", "stop", "status"])
@pytest.mark.parametrize("changed", [{}, {"changed": None}, {"changed": "x.py has changed"}])
def test_shapes_of_a_launcher(
    verb: str, changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"pid": 1 << 22, "began": 1.5, "elapsed_s": 2.5, "modules": 3, "forked": 1}
    monkeypatch.setattr(client, "ask", lambda _: said | {"children": [4]} | changed)
    monkeypatch.setattr(needs, "find_spec", lambda name: name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["launcher", verb, "--json"])
    if verb == "start" and changed.get("changed"):
        found = json.loads(done.stderr)
        check_shape(found, ErrorJSON)
        assert found["code"] == "launcher"
    else:
        assert done.stderr == ""
        check_shape(json.loads(done.stdout), OUTPUTS[f"launcher {verb}"])


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("verify", "nothing.thaw"), "io", 1),
        (("verify",), "usage", 2),
        (("convert", "{d}/model.thaw", "x.gguf"), "usage", 2),
        (("inspect", "{d}/ranks.thaw", "--rank", "2"), "mismatch", 1),
        (("restore", "{d}/model.thaw", "--to", "x", "--backend", "no"), "backend-unknown", 2),
        (("restore", "{d}/complex.thaw", "--to", "{d}/c"), "unsupported", 1),
        (("verify", "{d}/other.thaw"), "foreign-magic", 1),
    ],
)
def test_errors(
    arguments: tuple[str, ...], code: str, status: int, model: Path, ranks: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.thaw").write_bytes(b"THAW" + bytes(8192))
    thaw.freeze({"c": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "complex.thaw")
    done = CliRunner().invoke(app, [*(each.format(d=tmp_path) for each in arguments), "--json"])
    assert done.exit_code == status
    assert done.stdout == ""
    found = json.loads(done.stderr.splitlines()[-1])
    check_shape(found, ErrorJSON)
    assert found["code"] == code
    assert found["message"]


def test_a_transfer_that_fails_names_its_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with thaw.open(model) as snapshot:
        start = snapshot.storages[0].offset

    def fail(self: FileSource, offset: int, buffers: Sequence[HostBuffer]) -> None:
        if offset >= start:
            raise OSError(errno.EIO, "the disk is failing")
        read_into(self, offset, buffers)

    read_into = FileSource.read_into
    monkeypatch.setattr(FileSource, "read_into", fail)
    command = ["restore", str(model), "--to", str(tmp_path / "out"), "--backend", "reference"]
    done = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(done.stderr.splitlines()[-1])
    check_shape(found, ErrorJSON)
    assert (found["code"], found["path"], found["offset"]) == ("transfer", str(model), start)
    assert "failing" in found["message"]
    assert str(model) not in found["message"]
    shown = CliRunner().invoke(app, command).stderr.splitlines()[-1]
    assert shown.startswith(f"thaw: {model}: reading failed: ")


def test_every_vector() -> None:
    vectors = sorted(VECTORS.glob("*valid/*.thaw"))
    assert vectors
    for vector in vectors:
        expected = json.loads(vector.with_suffix(".json").read_text())
        done = CliRunner().invoke(app, ["inspect", "--json", "--sha256", str(vector)])
        if "error" in expected:
            found = json.loads(done.stderr.splitlines()[-1])
            assert done.exit_code == 1, vector.name
            assert {key: found[key] for key in ("code", "rule")} == expected["error"], vector.name
        else:
            assert done.exit_code == 0, vector.name
            rows = json.loads(done.stdout)["tensors"]
            table = [{key: row[key] for key in MEMBERS} for row in rows]
            assert table == expected["tensors"], vector.name


def test_too_many_elements_are_refused_by_name(tmp_path: Path) -> None:
    thaw.freeze({"w": torch.zeros(1).expand(1 << 25)}, tmp_path / "x.thaw")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "x.thaw"), "--json", "--sha256"])
    found = json.loads(done.stderr)
    assert (found["code"], found["rule"], done.exit_code) == ("limit", "CON-3", 1)
    assert CliRunner().invoke(app, ["inspect", str(tmp_path / "x.thaw")]).exit_code == 0
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "x.thaw")]).exit_code == 0


def test_one_rank_is_read_alone(ranks: Path) -> None:
    (ranks / "rank-00000-of-00002.thaw").write_bytes(b"damaged")
    done = CliRunner().invoke(app, ["inspect", str(ranks), "--rank", "1", "--json", "--sha256"])
    found = json.loads(done.stdout)
    assert [row["rank"] for row in found["tensors"]] == [1]
    assert found["ranks"][0]["tp"] == {"rank": 1, "size": 2}
    assert found["chunks_checked"] == 1
    assert CliRunner().invoke(app, ["inspect", str(ranks)]).exit_code == 1
