"""Find where the time of a freeze to a disk goes, beside plain writes in the same minutes.

    python benchmarks/write_profile.py FOLDER --output results/write_profile.json

Plain parallel writes of pinned memory past the page cache, and freezes by the native backend, each
of as many bytes to a new file: in all, the time that the backend takes to write the payload, and
that of the rest, which is the plan, the header, the sync and the name. Ways are interleaved, since
a disk that others share is not the same from one ten seconds to the next.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch
from thaw_format import Target
from thaw_native import NativeBackend

import thaw
from gauges import describe_machine
from llama import llama, make, total_nbytes
from plain import Times, write_plainly
from thaw import Transfer, WritePlan
from thaw.backend import Progress


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


def sample(tensors: Mapping[str, torch.Tensor], path: Path, times: Times) -> None:
    """Freeze once."""
    backend = TimedBackend()
    began = time.perf_counter()
    thaw.freeze(tensors, path, backend=backend)
    elapsed_s = time.perf_counter() - began
    path.unlink()
    times.setdefault("thaw.freeze", []).append(elapsed_s)
    times.setdefault("of it, the payload", []).append(backend.elapsed_s)
    times.setdefault("of it, all else", []).append(elapsed_s - backend.elapsed_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--commit", help="which this is, where git cannot tell")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gb", type=float, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    shapes = llama(round(options.gb * 1e9))
    tensors, nbytes = make(shapes, device), total_nbytes(shapes)
    machine, times = describe_machine(device, options.commit), Times()
    for _ in range(options.repeat):
        write_plainly(options.folder, device, nbytes, "O_DIRECT", times)
        sample(tensors, options.folder / "profile.thaw", times)
        rows = [
            {"what": what, "nbytes": nbytes, "samples_s": spent} for what, spent in times.items()
        ]
        options.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    for what, spent in times.items():
        every = " ".join(f"{each:.2f}" for each in spent)
        print(f"{what:30} {nbytes / median(spent) / 1e9:6.2f} GB/s, s: {every}")


if __name__ == "__main__":
    main()
