"""The profiles of reads and of writes, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thaw

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MIB = 1 << 20


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_cover_what_the_plan_reads_in_whole_pieces(count: int) -> None:
    from read_profile import cut
    from thaw.seam.plan import Extent, ReadPlan

    memory = torch.arange(70 * MIB, dtype=torch.uint8)
    extents = [Extent(4096, memory[: 30 * MIB]), Extent(40 * MIB, memory[30 * MIB :])]
    parts = list(cut(ReadPlan(tuple(extents)), count))
    assert len(parts) == count
    assert all(part.nbytes % (8 * MIB) == 0 for part in parts[:-1])
    found = [extent for part in parts for extent in part.extents]
    assert torch.equal(torch.cat([extent.memory for extent in found]), memory)
    ends = [0, *(extent.end for extent in found)]
    gaps = [extent.offset - end for extent, end in zip(found, ends, strict=False)]
    assert [gap for gap in gaps if gap] == [4096, 10 * MIB - 4096]


@pytest.mark.slow
def test_profile_of_reads_and_its_section(tmp_path: Path) -> None:
    pytest.importorskip("thaw_native", reason="the native backend is not installed")
    from llama import llama, make, total_nbytes, write_checkpoint
    from profiles_page import sections

    shapes = llama(80_000_000)
    tensors = make(shapes, torch.device("cpu"))
    thaw.freeze(tensors, tmp_path / "file.thaw")
    write_checkpoint(tensors, tmp_path / "checkpoint")
    out = tmp_path / "read_profile.json"
    command = [sys.executable, BENCHMARKS / "read_profile.py", tmp_path / "file.thaw"]
    command += [tmp_path / "checkpoint", "--device", "cpu", "--repeat", "2", "--output", out]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    counts = {what: {len(reads) for reads in row["reads_s"]} for what, row in rows.items()}
    assert counts.pop("one file, 4 reads") == counts.pop("4 files") == {4}
    assert len(counts) == 9 and set(map(frozenset, counts.values())) == {frozenset({1})}
    assert all(len(row["reads_s"]) == 2 for row in rows.values())
    whole = {what for what, row in rows.items() if row["nbytes"] == total_nbytes(shapes)}
    assert whole == {"4 files", "4 files at once"} | {
        f"thaw.restore{what}" for what in ("", ", undigested", ", 4 files")
    }
    assert rows["one file, 8 bytes later"]["nbytes"] == rows["one file"]["nbytes"] - 8
    assert rows["one piece"]["nbytes"] == 8 * MIB
    (line,) = [each for each in sections(tmp_path) if each.startswith("| one file, 4 reads |")]
    assert line.count(", ") == 1 + 3


@pytest.mark.slow
def test_profile_of_writes_and_its_section(tmp_path: Path) -> None:
    pytest.importorskip("thaw_native", reason="the native backend is not installed")
    from profiles_page import sections

    (tmp_path / "there").mkdir()
    out = tmp_path / "write_profile.json"
    command = [sys.executable, BENCHMARKS / "write_profile.py", tmp_path / "there", "--gb", "0.1"]
    command += ["--device", "cpu", "--repeat", "2", "--output", out, "--threads", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    if "Invalid argument" in done.stderr:
        pytest.skip("the file system of the temporary folder refuses direct I/O")
    assert not done.returncode, done.stderr
    rows = {row["what"]: row["samples_s"] for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 6 and {len(samples) for samples in rows.values()} == {2}
    parts = zip(rows["of it, the payload"], rows["of it, all else"], strict=True)
    assert list(map(sum, parts)) == pytest.approx(rows["thaw.freeze"])
    assert not list((tmp_path / "there").iterdir())
    assert sum("| thaw.freeze |" in each for each in sections(tmp_path)) == 1


def test_nothing_measured_makes_no_section(tmp_path: Path) -> None:
    from profiles_page import sections

    assert sections(tmp_path) == []
