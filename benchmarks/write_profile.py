"""Find where the time of a freeze goes, beside plain writes in the same minutes.

    python benchmarks/write_profile.py FOLDER FOLDER --output results/write_profile.json

Plain parallel writes of pinned memory (past the page cache, where the folder's file system has a
disk), and freezes by the native backend, each of as many bytes to a new file: in all, the time that
the backend takes to write the payload, and that of the rest, which is the plan, the header, the
sync and the name. Ways are interleaved, since neither a disk that others share nor the memory that
a virtual machine gets back from its host is the same from one ten seconds to the next.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from thaw_format import Target
from thaw_native import NativeBackend

import thaw
from bench_case import Times
from gauges import describe_machine
from llama import llama, make, total_nbytes
from plain import write_plainly
from thaw import Transfer, WritePlan
from thaw.bench.disk import filesystem
from thaw.seam.backend import Progress


class TimedBackend(NativeBackend):
    """Notes how long its last write took."""

    elapsed_s = 0.0

    def write(
        self, target: Target, plan: WritePlan, *, progress: Progress | None = None
    ) -> Transfer:
        began = time.perf_counter()
        done = super().write(target, plan, progress=progress)
        self.elapsed_s = time.perf_counter() - began
        return done


def freeze(tensors: Mapping[str, torch.Tensor], path: Path, threads: int | None) -> Times:
    """Freeze once, with so many threads, or with as many as the backend chooses."""
    backend = TimedBackend(threads=threads)
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    thaw.freeze(tensors, path, backend=backend)
    elapsed_s = time.perf_counter() - began
    if threads:
        return {f"thaw.freeze, {threads} threads": [elapsed_s]}
    rest_s = elapsed_s - backend.elapsed_s
    return {
        "thaw.freeze": [elapsed_s],
        "of it, the payload": [backend.elapsed_s],
        "of it, all else": [rest_s],
    }


def sample(
    tensors: Mapping[str, torch.Tensor],
    nbytes: int,
    device: torch.device,
    folder: Path,
    threads: Sequence[int],
    times: Times,
) -> None:
    """Take one sample of each way. Each write comes right after a file as large was removed."""
    how = "buffered" if filesystem(folder) == "tmpfs" else "O_DIRECT"
    path = folder / "profile.thaw"
    write_plainly(folder, device, nbytes, how, times)
    for count in (None, *threads):
        for way, spent in freeze(tensors, path, count).items():
            times.setdefault(way, []).extend(spent)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit", help="which this is, where git cannot tell")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gb", type=float, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=(), help="to try besides")
    options = parser.parse_args()
    device = torch.device(options.device)
    shapes = llama(round(options.gb * 1e9))
    tensors, nbytes = make(shapes, device), total_nbytes(shapes)
    machine, found = describe_machine(device, options.commit), dict[str, Times]()
    for folder in options.folders:
        times = found.setdefault(filesystem(folder), Times())
        for _ in range(options.repeat):
            sample(tensors, nbytes, device, folder, options.threads, times)
            rows = list(listed(found, nbytes))
            text = json.dumps({"machine": machine, "rows": rows}, indent=1)
            options.output.write_text(text + "\n")
    for row in listed(found, nbytes):
        rate = row["nbytes"] / median(row["samples_s"]) / 1e9
        every = " ".join(f"{each:.2f}" for each in row["samples_s"])
        print(f"{row['where']:6} {row['what']:24} {rate:6.2f} GB/s, s: {every}")


def listed(found: Mapping[str, Times], nbytes: int) -> Iterator[dict[str, Any]]:
    for where, times in found.items():
        for what, spent in times.items():
            yield {"where": where, "what": what, "nbytes": nbytes, "samples_s": spent}


if __name__ == "__main__":
    main()
