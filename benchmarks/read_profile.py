"""Find where the time of a restore goes, and what it costs that a checkpoint is several files.

    python benchmarks/read_profile.py FILE.thaw CHECKPOINT --output results/read_profile.json

By the native backend, to new memory: `thaw.restore` of the file with its digests, without them, and
of the checkpoint, each from the path on. Then the reads alone, without digests, of what was opened
before: the file whole; to memory that begins some bytes later, as that of a checkpoint does, whose
bytes are not aligned in its files; in as many parts as the checkpoint has files; the files of the
checkpoint one by one, and at once; and the first piece of the file, which takes about what a read
takes to begin and to end. At last plain reads by as many threads into page-locked memory, without a
device: files differ in this, too, by where in memory they happen to be. Ways are interleaved, so
that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch
from thaw_format import FileSource, Snapshot
from thaw_native import NativeBackend

import thaw
from gauges import describe_machine
from measures_thaw import undigested
from thaw.bench.memory import PIECE_NBYTES, slots, transfer_buffer
from thaw.bench.threads import move_pieces
from thaw.restoring.new_memory import plan_arena
from thaw.seam.plan import Extent, ReadPlan

_PIECE_NBYTES = 8 << 20
_SHIFT_NBYTES = 8
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """What one sample of a way moved, and the seconds of each of its reads."""

    nbytes: int
    reads_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """Something that is read."""

    what: str
    once: Callable[[], Sample]
    samples: list[Sample] = field(default_factory=list)


def timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def restore(path: Path, device: torch.device, *, digests: bool) -> Sample:
    """Restore from a path."""
    began = time.perf_counter()
    if digests:
        restored = thaw.restore(path, device=device, backend="native")
    else:
        with thaw.open(path) as snapshot:
            restored = thaw.restore(undigested(snapshot), device=device, backend="native")
    return Sample(restored.report.nbytes, (time.perf_counter() - began,))


def read(
    snapshot: Snapshot,
    device: torch.device,
    *,
    parts: int = 1,
    only: int | None = None,
    together: bool = False,
    shift: int = 0,
) -> Sample:
    """Read the sources of a snapshot.

    Args:
        parts: how many reads are made of each source.
        only: how many of the reads are carried out; all if not given.
        together: whether the reads are one for the backend.
        shift: how many bytes later the memory begins.
    """
    backend, plan = NativeBackend(), plan_arena(snapshot, list(snapshot.tensors), device)
    reads = [
        (snapshot.sources[source], part)
        for source, _, whole in plan.reads
        for part in cut(shifted(whole, shift), parts)
    ][:only]
    calls = [reads] if together else [[each] for each in reads]
    spent = tuple(timed(partial(backend.read_all, each)) for each in calls)
    return Sample(sum(part.nbytes for _, part in reads), spent)


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


def read_plainly(snapshot: Snapshot, memory: torch.Tensor) -> Sample:
    """Read all bytes of the sources into the same memory again and again."""
    buffers = slots(memory, _THREADS, PIECE_NBYTES)
    places = [
        (source.fileno(), offset)
        for source in snapshot.sources
        if isinstance(source, FileSource)
        for offset in range(0, source.nbytes, PIECE_NBYTES)
    ]

    def move(thread: int, number: int) -> int:
        fd, offset = places[number]
        mine = buffers[thread]
        return os.preadv(fd, [mine[number % len(mine)]], offset)

    spent = timed(partial(move_pieces, move, len(places), threads=_THREADS))
    return Sample(sum(source.nbytes for source in snapshot.sources), (spent,))


def measure(file: Path, checkpoint: Path, device: torch.device, repeat: int) -> list[Way]:
    with ExitStack() as stack:
        whole, shards = (
            undigested(stack.enter_context(thaw.open(path))) for path in (file, checkpoint)
        )
        count = len(shards.sources)
        pieces = -(-sum(each.nbytes for each in whole.storages) // _PIECE_NBYTES)
        of_whole, of_shards = partial(read, whole, device), partial(read, shards, device)
        memory = transfer_buffer(device)
        ways = [
            Way("thaw.restore", partial(restore, file, device, digests=True)),
            Way("thaw.restore, undigested", partial(restore, file, device, digests=False)),
            Way(f"thaw.restore, {count} files", partial(restore, checkpoint, device, digests=True)),
            Way("one file", of_whole),
            Way(f"one file, {_SHIFT_NBYTES} bytes later", partial(of_whole, shift=_SHIFT_NBYTES)),
            Way(f"one file, {count} reads", partial(of_whole, parts=count)),
            Way(f"{count} files", of_shards),
            Way(f"{count} files at once", partial(of_shards, together=True)),
            Way("one piece", partial(of_whole, parts=pieces, only=1)),
            Way("plain reads of one file", partial(read_plainly, whole, memory)),
            Way(f"plain reads of {count} files", partial(read_plainly, shards, memory)),
        ]
        for _ in range(repeat):
            for way in ways:
                way.samples.append(way.once())
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
    rows = [
        {
            "what": way.what,
            "nbytes": way.samples[0].nbytes,
            "reads_s": [sample.reads_s for sample in way.samples],
        }
        for way in ways
    ]
    document = {"machine": describe_machine(device, options.commit), "rows": rows}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    for way in ways:
        reads = [sample.reads_s for sample in way.samples]
        whole = sorted(map(sum, reads))
        each = " ".join(f"{median(times) * 1e3:.1f}" for times in zip(*reads, strict=True))
        print(
            f"{way.what:25} {median(whole) * 1e3:7.1f} ms ({whole[0] * 1e3:.1f} to "
            f"{whole[-1] * 1e3:.1f}), reads {each}"
        )


if __name__ == "__main__":
    main()
