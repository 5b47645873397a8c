"""Restores that read the payload while the manifest is parsed do what others do."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from thaw_format import (
    STORAGE_ALIGNMENT,
    ChecksumError,
    Chunks,
    Description,
    FileTarget,
    FormatError,
    Layout,
    ThawError,
    align,
    layout_tensors,
    open_shard,
    parse_superblock,
    serialize_superblock,
    write_shard,
)
from thaw_format.checksum import crc32c
from thaw_format.source import Source
from thaw_format.superblock import MANIFEST, PAYLOAD, SUPERBLOCK_NBYTES

import thaw
from thaw.plugins.reference import ReferenceBackend
from thaw.restoring import new_memory
from thaw.seam.backend import Progress, Transfer
from thaw.seam.plan import Extents, ReadPlan, WritePlan
from thaw.tensors.elements import bytes_of

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"
FILES = sorted(path for path in VECTORS.glob("*valid/*.thaw") if path.is_file())
COUNT = 9_000


class Recording(ReferenceBackend):
    """Keeps the plans that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[ReadPlan] = []

    def read(self, source: Source, plan: ReadPlan, *, progress: Progress | None = None) -> Transfer:
        self.plans.append(plan)
        return super().read(source, plan, progress=progress)


def outcome(path: Path) -> Any:
    """Say what restoring a file gives, or how it fails."""
    try:
        restored = thaw.restore(path, backend="reference")
    except FormatError as error:
        return type(error), error.code, error.rule, error.offset, error.path
    except (ThawError, TypeError) as error:
        return type(error), str(error)
    tensors = {
        name: (t.dtype, t.shape, t.stride(), bytes_of(t).tolist()) for name, t in restored.items()
    }
    return tensors, restored.report.path, restored.report.nbytes, restored.report.tensors


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_vector_comes_to_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outcome(path)
    monkeypatch.setattr(new_memory, "_WORTH_NBYTES", 0)
    found = outcome(path)
    if expected[0] is not ChecksumError and found[0] is ChecksumError:
        # It reads chunks that no tensor has bytes in as well.
        with pytest.raises(ChecksumError) as damage:
            thaw.verify(path)
        assert found[1:4] == (damage.value.code, damage.value.rule, damage.value.offset)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    """Write a file whose manifest is large: plain tensors, ties, strides, nothing, one element."""
    values = torch.arange(COUNT * 8, dtype=torch.int32)
    tensors = {f"layer.{index}.weight": each.clone() for index, each in enumerate(values.split(8))}
    tensors |= {"tied": tensors["layer.7.weight"], "column": torch.randn(40, 30).T}
    tensors |= {"empty": torch.empty(3, 0), "one": torch.tensor(1.5)}
    path = tmp_path_factory.mktemp("ahead") / "many.thaw"
    thaw.freeze(tensors, path)
    return tensors, path


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_thousands_of_tensors_are_what_was_frozen(
    many: tuple[dict[str, torch.Tensor], Path], backend: str
) -> None:
    tensors, path = many
    restored = thaw.restore(path, backend=backend)
    assert restored.keys() == tensors.keys()
    for name, each in tensors.items():
        assert torch.equal(restored[name], each), name
        assert restored[name].stride() == each.stride(), name
    assert restored["tied"].data_ptr() == restored["layer.7.weight"].data_ptr()
    with thaw.open(path) as snapshot:
        expected = thaw.restore(snapshot, backend=backend).report
    assert (restored.report.nbytes, restored.report.chunks_checked) == (
        expected.nbytes,
        expected.chunks_checked,
    )


def test_a_large_manifest_is_parsed_while_the_payload_is_read(
    many: tuple[dict[str, torch.Tensor], Path],
) -> None:
    backend = Recording()
    thaw.restore(many[1], backend=backend)
    with thaw.open(many[1]) as snapshot:
        assert snapshot.digests[0] is not None
        payload = snapshot.digests[0].chunks
    ((extent,),) = [plan.extents for plan in backend.plans]
    assert (extent.offset, extent.nbytes) == (payload.offset, payload.nbytes)


def test_a_small_manifest_is_parsed_first(tmp_path: Path) -> None:
    path, backend = tmp_path / "small.thaw", Recording()
    thaw.freeze({"a": torch.ones(3), "b": torch.ones(5)}, path)
    thaw.restore(path, backend=backend)
    assert [extent.nbytes for plan in backend.plans for extent in plan.extents] == [512 + 20]


def write_with_gaps(path: Path, gap_nbytes: int) -> dict[str, torch.Tensor]:
    """Write small tensors as another writer may: with gaps between their storages."""
    tensors = {f"layer.{index}.weight": torch.full((7,), index) for index in range(COUNT)}
    layout = layout_tensors(tensors)
    step = align(layout.storages[0].nbytes + gap_nbytes, STORAGE_ALIGNMENT)
    storages = tuple(
        replace(each, offset=index * step) for index, each in enumerate(layout.storages)
    )

    def write(target: FileTarget, layout: Layout, chunks: Chunks) -> list[int]:
        offsets = [chunks.offset + each.offset for each in layout.storages]
        extents = Extents.over(offsets, layout.memory)
        return list(ReferenceBackend().write(target, WritePlan(extents, chunks)).digests)

    description = Description(producer={"name": "another", "version": "1"})
    write_shard(path, replace(layout, storages=storages), description, write)
    return tensors


@pytest.mark.parametrize(("gap_nbytes", "ahead"), [(0, True), (16_000, False)])
def test_large_gaps_between_tensors_take_no_memory(
    tmp_path: Path, gap_nbytes: int, ahead: bool
) -> None:
    tensors = write_with_gaps(tmp_path / "gaps.thaw", gap_nbytes)
    backend = Recording()
    restored = thaw.restore(tmp_path / "gaps.thaw", backend=backend)
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)
    extents = [extent for plan in backend.plans for extent in plan.extents]
    assert (len(extents) == 1) == ahead
    assert sum(extent.nbytes for extent in extents) <= COUNT * STORAGE_ALIGNMENT * 9 // 8


def test_damage_is_named(many: tuple[dict[str, torch.Tensor], Path], tmp_path: Path) -> None:
    with open_shard(many[1]) as shard:
        spec = shard.tensors["layer.7.weight"]
        at = shard.storages[spec.storage].offset + spec.offset
    path = tmp_path / "damaged.thaw"
    data = bytearray(many[1].read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"chunk 0 .*'layer") as damage:
        thaw.restore(path, backend="reference")
    assert damage.value.path == str(path)
    assert open_files(path) == []


def test_a_manifest_that_breaks_a_rule_comes_before_damage(
    many: tuple[dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    path, data = tmp_path / "broken.thaw", bytearray(many[1].read_bytes())
    superblock = parse_superblock(bytes(data[:SUPERBLOCK_NBYTES]), len(data))
    manifest = superblock.section(MANIFEST)
    text = bytes(data[manifest.offset : manifest.end]).replace(b"int32", b"int33", 1)
    data[manifest.offset : manifest.end] = text
    mended = replace(manifest, crc32c=crc32c(text))
    sections = tuple(mended if each is manifest else each for each in superblock.sections)
    data[superblock.section(PAYLOAD).offset] ^= 1
    data[:SUPERBLOCK_NBYTES] = serialize_superblock(replace(superblock, sections=sections))
    path.write_bytes(data)
    with pytest.raises(FormatError, match="'int33'") as broken:
        thaw.restore(path, backend="reference")
    assert (broken.value.code, broken.value.path) == ("unknown-dtype", str(path))
    assert open_files(path) == []


def test_an_interrupt_ends_the_transfer(many: tuple[dict[str, torch.Tensor], Path]) -> None:
    def interrupt(nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thaw.restore(many[1], backend="native", progress=interrupt)
    assert open_files(many[1]) == []
    assert not [each for each in threading.enumerate() if each.name.startswith("thaw-manifest")]


def open_files(path: Path) -> list[str]:
    links = (Path("/proc/self/fd", each) for each in os.listdir("/proc/self/fd"))
    return [str(link) for link in links if link.exists() and link.readlink() == path]
