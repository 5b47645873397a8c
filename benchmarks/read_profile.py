"""Find what it costs that the bytes of a checkpoint lie in several files, and where they lie there.

    python benchmarks/read_profile.py FILE.thaw CHECKPOINT --output results/read_profile.json

The native backend reads, without digests and into new memory: the file whole; the same to memory
that begins some bytes later, as that of a checkpoint does, whose bytes are not aligned in its
files; the same in as many parts as the checkpoint has files; the checkpoint file by file, and at
once; and the first piece of the file alone, which takes about what a read takes to begin and to
end. Ways are interleaved, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from thaw_format import Snapshot

import thaw
from gauges import describe_machine
from thaw.backend import Extent, ReadPlan
from thaw.planning import plan_arena
from thaw.selection import select_backend

_PIECE_NBYTES = 8 << 20
_SHIFT_NBYTES = 8


@dataclass(slots=True)
class Way:
    """Something that is read, in one or several reads, and how long each sample of it took.

    Attributes:
        parts: how many reads are made of each source.
        only: how many of the reads are carried out; all if not given.
        together: whether the reads are one for the backend.
        shift: how many bytes later the memory begins.
        planned_s: the seconds from nothing to a plan and its memory, of each sample.
        reads_s: the seconds of each read, of each sample.
    """

    what: str
    snapshot: Snapshot
    parts: int = 1
    only: int | None = None
    together: bool = False
    shift: int = 0
    nbytes: int = 0
    planned_s: list[float] = field(default_factory=list)
    reads_s: list[list[float]] = field(default_factory=list)


def cut(plan: ReadPlan, count: int) -> Iterator[ReadPlan]:
    """Cut what a plan reads into parts of about as many bytes each, at whole pieces."""
    each = -(-plan.nbytes // count // _PIECE_NBYTES) * _PIECE_NBYTES
    part, room = list[Extent](), each
    for extent in plan.extents:
        start = 0
        while start < extent.nbytes:
            taken = min(extent.nbytes - start, room)
            part.append(Extent(extent.offset + start, extent.memory[start : start + taken]))
            start, room = start + taken, room - taken
            if not room:
                yield ReadPlan(tuple(part))
                part, room = [], each
    if part:
        yield ReadPlan(tuple(part))


def shifted(plan: ReadPlan, nbytes: int) -> ReadPlan:
    """Read a run of a file to memory that begins so many bytes later; what has no room is left."""
    if not nbytes:
        return plan
    (extent,) = plan.extents
    return ReadPlan((Extent(extent.offset, extent.memory[nbytes:]),))


def sample(way: Way, device: torch.device) -> None:
    """Read once."""
    snapshot = way.snapshot
    began = time.perf_counter()
    backend = select_backend("native", "read", device, snapshot.path)
    plan = plan_arena(snapshot, list(snapshot.tensors), device)
    reads = [
        (snapshot.sources[source], part)
        for source, _, read in plan.reads
        for part in cut(shifted(read, way.shift), way.parts)
    ][: way.only]
    way.planned_s.append(time.perf_counter() - began)
    spent = []
    for each in [reads] if way.together else [[read] for read in reads]:
        began = time.perf_counter()
        backend.read_all(each)
        spent.append(time.perf_counter() - began)
    way.reads_s.append(spent)
    way.nbytes = sum(read.nbytes for _, read in reads)


def measure(file: Path, checkpoint: Path, device: torch.device, repeat: int) -> list[Way]:
    with ExitStack() as stack:
        whole, shards = (
            replace(found, digests=(None,) * len(found.sources))
            for path in (file, checkpoint)
            for found in [stack.enter_context(thaw.open(path))]
        )
        count = len(shards.sources)
        pieces = -(-sum(each.nbytes for each in whole.storages) // _PIECE_NBYTES)
        ways = [
            Way("one file", whole),
            Way(f"one file, {_SHIFT_NBYTES} bytes later", whole, shift=_SHIFT_NBYTES),
            Way(f"one file, {count} reads", whole, parts=count),
            Way(f"{count} files", shards),
            Way(f"{count} files at once", shards, together=True),
            Way("one piece", whole, parts=pieces, only=1),
        ]
        for _ in range(repeat):
            for way in ways:
                sample(way, device)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit", help="which this is, where git cannot tell")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    device = torch.device(options.device)
    measure(options.file, options.checkpoint, device, 1)
    ways = measure(options.file, options.checkpoint, device, options.repeat)
    machine = describe_machine(device, options.commit)
    rows = [
        {
            "what": way.what,
            "nbytes": way.nbytes,
            "planned_s": way.planned_s,
            "reads_s": way.reads_s,
        }
        for way in ways
    ]
    options.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    for way in ways:
        whole = sorted(map(sum, way.reads_s))
        each = " ".join(f"{median(times) * 1e3:.1f}" for times in zip(*way.reads_s, strict=True))
        print(
            f"{way.what:20} {median(whole) * 1e3:7.1f} ms ({whole[0] * 1e3:.1f} to "
            f"{whole[-1] * 1e3:.1f}), reads {each}, planned {median(way.planned_s) * 1e3:.1f}"
        )


if __name__ == "__main__":
    main()
