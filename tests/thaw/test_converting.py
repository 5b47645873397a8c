"""Converting: what is written is what was read, in bounded memory, where the name says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from thaw_format import open_shard
from typer.testing import CliRunner, Result

import thaw
from thaw.cli.app import app
from thaw.cli.text import parse_size
from thaw.converting import convert

NAME = "safetensors"


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def tensors_of_all_kinds() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    base = torch.randn(40, 30)
    words = torch.randint(0, 256, (64,), dtype=torch.uint8)
    return {
        "z.first": base,
        "tied": base,
        "transposed": base.t(),
        "rows": base[3:9],
        "alone": torch.randn(5, 7)[1:3, 2:4],
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7, dtype=torch.int16),
        "expanded": torch.randn(1, 6).expand(5, 6),
        "bytes": words[:9],
        "as floats": words[8:40].view(torch.float64),
        "as halves": words[6:10].view(torch.bfloat16),
        "large": torch.randn(70_000),
        "more": torch.arange(33, dtype=torch.uint8),
        "empty too": torch.empty(3, 0, dtype=torch.bool),
    }


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "source.thaw"
    thaw.freeze(tensors_of_all_kinds(), path, metadata={"note": "x"}, kind="odd")
    return path


def check_same(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw(found[name]) == raw(tensor), name


@pytest.mark.parametrize("buffer_nbytes", [4096, 10_000, 300_000, 1 << 30])
@pytest.mark.parametrize("chunk_nbytes", [4096, 1 << 22])
@pytest.mark.parametrize("names", [None, ["*e*"], ["rows", "alone"]])
def test_a_snapshot_is_what_freezing_the_restored_makes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    buffer_nbytes: int,
    chunk_nbytes: int,
    names: list[str] | None,
) -> None:
    monkeypatch.setattr("thaw.restoring.regions.BUFFER_NBYTES", buffer_nbytes)
    source, made, other = (tmp_path / f"{name}.thaw" for name in ("source", "made", "other"))
    metadata = {"note": "x"}
    thaw.freeze(
        tensors_of_all_kinds(), source, metadata=metadata, kind="odd", chunk_nbytes=chunk_nbytes
    )
    report = convert(source, made, names=names)
    restored = thaw.restore(source, names=names)
    thaw.freeze(restored, other, kind="odd", metadata=metadata)
    thaw.verify(made)
    with open_shard(made) as one, open_shard(other) as two:
        assert (one.storages, one.tensors) == (two.storages, two.tensors)
        assert list(one.tensors) == list(two.tensors)
        assert (one.kind, one.metadata, one.producer) == (two.kind, two.metadata, two.producer)
        assert one.digests == two.digests
    assert (report.tensors, report.nbytes) == (len(restored), restored.report.nbytes)


@pytest.mark.parametrize("buffer_nbytes", [1, 10_000, 1 << 30])
def test_a_checkpoint_has_every_name(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, buffer_nbytes: int
) -> None:
    monkeypatch.setattr("thaw.restoring.regions.BUFFER_NBYTES", buffer_nbytes)
    path = snapshot.with_name("m.safetensors")
    convert(snapshot, path)
    check_same(load_file(path), tensors_of_all_kinds())


def test_a_checkpoint_of_many_files_to_a_snapshot_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaw.restoring.regions.BUFFER_NBYTES", 5000)
    tensors = {f"layer.{number:02}": torch.randn(20, 11) for number in range(20)}
    thaw.freeze(tensors, tmp_path / "a.thaw")
    convert(tmp_path / "a.thaw", tmp_path / "folder", format="safetensors", max_shard_nbytes=2000)
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) == 10
    convert(tmp_path / "folder", tmp_path / "b.thaw")
    convert(tmp_path / "b.thaw", tmp_path / "again", format="safetensors")
    for each in (tmp_path / "folder").iterdir():
        assert (tmp_path / "again" / each.name).read_bytes() == each.read_bytes()
    check_same(thaw.restore(tmp_path / "again"), tensors)


def test_what_was_stored_apart_stays_apart(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "m.thaw")
    restored = thaw.restore(tmp_path / "m.thaw")
    assert restored["a"].data_ptr() != restored["b"].data_ptr()


def test_ties_stay_where_the_format_has_them(snapshot: Path) -> None:
    convert(snapshot, snapshot.with_name("b.thaw"))
    restored = thaw.restore(snapshot.with_name("b.thaw"))
    assert restored["tied"].data_ptr() == restored["z.first"].data_ptr()
    assert restored["transposed"].stride() == (1, 30)
    convert(snapshot, snapshot.with_name("c.safetensors"))
    stored = load_file(snapshot.with_name("c.safetensors"))
    assert {"tied", "z.first", "transposed", "rows"} <= set(stored)


@pytest.mark.parametrize("name", ["b.thaw", "b.safetensors", "folder"])
@pytest.mark.parametrize("is_old", [True, False])
def test_damage_leaves_what_was_there(snapshot: Path, name: str, is_old: bool) -> None:
    path = snapshot.with_name(name)
    if is_old:
        thaw.freeze({"w": torch.ones(1)}, snapshot.with_name("old.thaw"))
        convert(snapshot.with_name("old.thaw"), path, format=None if path.suffix else NAME)
    data = bytearray(snapshot.read_bytes())
    data[-4000] ^= 1
    snapshot.write_bytes(data)
    before = sorted(snapshot.parent.rglob("*"))
    with pytest.raises(thaw.ChecksumError, match="is damaged"):
        convert(snapshot, path, format=None if path.suffix else NAME)
    assert sorted(snapshot.parent.rglob("*")) == before
    assert not is_old or thaw.restore(path)["w"].tolist() == [1]


@pytest.mark.parametrize("suffix", [".thaw", ".safetensors"])
def test_tensors_that_no_memory_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "a.thaw"
    huge = torch.ones(1, dtype=torch.uint8).expand(1 << 46)
    thaw.freeze({"x": huge, "y": torch.ones(3)}, path)
    for use in (lambda: thaw.diff(path, path), lambda: convert(path, tmp_path / "b.safetensors")):
        with pytest.raises(thaw.FormatError) as caught:
            use()
        assert (caught.value.code, caught.value.path) == ("limit", str(path))
    # What is not touched does not count, and a snapshot has strides.
    convert(path, tmp_path / f"b{suffix}", names="y")
    convert(path, tmp_path / "c.thaw")
    assert thaw.restore(tmp_path / "c.thaw")["x"].shape == huge.shape


CHILD = """
import re, sys
from typer.testing import CliRunner
from thaw.cli.app import app
# Not ru_maxrss: that of a new program begins with its parent's.
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
# A small one first: what code takes is no matter of size.
for name in ("small", "large"):
    before = peak()
    found = CliRunner().invoke(app, [each.format(name=name) for each in sys.argv[1:]])
    assert found.exit_code == 0, found.output
print(peak() - before)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, count in (("small", 3), ("large", 16)):
        tensors = {
            f"layer.{number}": torch.full((1 << 24,), number, dtype=torch.bfloat16)
            for number in range(count)
        }
        save_file(tensors, folder / f"{name}.safetensors")
        thaw.convert(folder / f"{name}.safetensors", folder / f"{name}.thaw")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["freeze", "{name}.safetensors", "-o", "{name}-a.thaw"],
        ["convert", "{name}.thaw", "{name}-b.thaw", "--backend", "reference"],
        ["restore", "{name}.thaw", "--to", "{name}-c.safetensors", "--backend", "reference"],
        ["restore", "{name}.thaw", "--to", "{name}-d", "--max-shard-size", "100MB"],
    ],
    ids=" ".join,
)
def test_memory_does_not_grow_with_the_checkpoint(checkpoints: Path, command: list[str]) -> None:
    words = [sys.executable, "-c", CHILD, *command]
    done = subprocess.run(words, cwd=checkpoints, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for each in checkpoints.glob("*-[abcd]*"):
        subprocess.run(["rm", "-r", each], check=True)
    assert int(done.stdout) < 100 << 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("freeze", "{s}", "-o", "{d}/c.safetensors"), "ends like the format 'safetensors'"),
        (("convert", "{s}", "{d}/c.safetensors", "--format", "thaw"), "ends like the format"),
        (("convert", "{s}", "{d}/c.thaw", "--format", "safetensors"), "let it end in .safetensors"),
        (("restore", "{s}", "--to", "{d}/c.thaw", "--format", "safetensors"), "ends like"),
        (("restore", "{s}", "--to", "{d}/c.thaw", "--max-shard-size", "5GB"), "--max-shard-size"),
        (("restore", "{s}", "--to", "{d}/c.safetensors", "--max-shard-size", "1KB"), "one file"),
        (("restore", "{s}", "--to", "{d}/c", "--max-shard-size", "5 parsecs"), "5GB or 512MiB"),
        (("restore", "{s}", "--to", "{d}/c", "--max-shard-size", "0"), "is no size"),
        (("freeze", "--model", "m", "-o", "{d}/c.safetensors"), "ends like the format"),
    ],
)
def test_wrong_usage(snapshot: Path, arguments: tuple[str, ...], words: str) -> None:
    found = run(*(each.format(s=snapshot, d=snapshot.parent) for each in arguments))
    assert found.exit_code == 2
    assert words in found.stderr
    assert [path.name for path in snapshot.parent.iterdir()] == [snapshot.name]


def test_a_snapshot_s_name_gets_a_snapshot(snapshot: Path) -> None:
    found = run("restore", snapshot, "--to", snapshot.with_name("b.thaw"), "--json")
    assert json.loads(found.stdout)["destination_format"] == "thaw"
    assert thaw.diff(snapshot, snapshot.with_name("b.thaw")).identical
    assert run("restore", snapshot, "--to", snapshot.with_name("out")).exit_code == 0
    check_same(load_file(snapshot.with_name("out") / "model.safetensors"), tensors_of_all_kinds())


def test_freezing_to_another_format_s_name(tmp_path: Path) -> None:
    for name in ("a.safetensors", "ranks.safetensors"):
        shard = thaw.Shard(0, 2) if "ranks" in name else None
        with pytest.raises(thaw.ThawError, match="ends like the format 'safetensors'"):
            thaw.freeze({"w": torch.ones(1)}, tmp_path / name, shard=shard, snapshot_id="ab" * 16)
    assert not list(tmp_path.iterdir())


def test_an_index_s_name_is_no_destination(snapshot: Path) -> None:
    path = snapshot.with_name("model.safetensors.index.json")
    with pytest.raises(ValueError, match="name the folder"):
        convert(snapshot, path, format="safetensors")
    assert not path.exists()


def test_the_size_of_files(snapshot: Path) -> None:
    folder = snapshot.with_name("out")
    found = run("restore", snapshot, "--to", folder, "--max-shard-size", "10KB", "--json")
    files = [Path(each) for each in json.loads(found.stdout)["files"]]
    assert len(files) > 3
    for file in files[:-1]:
        with safe_open(file, framework="pt") as opened:
            sizes = [opened.get_tensor(name).nbytes for name in opened.keys()]  # noqa: SIM118
        assert sum(sizes) <= 10_000 or len(sizes) == 1
    check_same(thaw.restore(folder), tensors_of_all_kinds())


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("5GB", 5 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5 kib", 1536),
        ("10kb", 10_000),
        ("1TB", 10**12),
        ("123", 123),
        ("7B", 7),
        ("", None),
        ("GB", None),
        ("-1GB", None),
        ("1iB", None),
        ("1PB", None),
        ("0.1", None),
        ("1e9", None),
        ("\u0661GB", None),
    ],
)
def test_sizes(text: str, nbytes: int | None) -> None:
    assert parse_size(text) == nbytes
