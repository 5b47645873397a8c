"""Sweep the native backend's settings over files that are there, and write what was found.

    python benchmarks/tuning.py FILE... --output results/tuning.json [--grid GRID] [--device cuda]

GRID is JSON: a list of the keywords of `thaw_native.NativeBackend`, such as
`[{"threads": 17, "piece_nbytes": 2097152, "slots": 2}]`. Each setting restores every file a few
times into new memory; settings are interleaved, so that what else the machine does falls on all
of them alike. Restores that a case is compared with must be of the same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

import thaw
from gauges import describe_machine

MIB = 1 << 20


def grid() -> list[dict[str, Any]]:
    """Return the settings that are tried if none are given: the defaults, and one change each."""
    pieces = [{"piece_nbytes": size * MIB} for size in (1, 2, 4, 8)]
    slots = [{"slots": count} for count in (2, 3, 4)]
    both = [{**a, **b} for a, b in itertools.product(pieces, slots)]
    threads = [{"threads": count} for count in (9, 13, 16, 17, 18, 21)]
    return [{}, *both, *threads, {"digests": "host"}]


def restore(path: Path, device: torch.device, settings: dict[str, Any]) -> tuple[float, str]:
    """Restore once; return the seconds and the path that ran."""
    from thaw_native import NativeBackend

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    report = thaw.restore(path, device=device, backend=NativeBackend(**settings)).report
    return time.perf_counter() - began, report.path_ran


def measure(
    paths: list[Path], device: torch.device, tried: list[dict[str, Any]], repeat: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"file": path.name, "nbytes": path.stat().st_size, "settings": each, "samples_s": []}
        for path in paths
        for each in tried
    ]
    folders = {path.name: path for path in paths}
    for _ in range(repeat):
        for row in rows:
            elapsed_s, row["path_ran"] = restore(folders[row["file"]], device, row["settings"])
            row["samples_s"].append(elapsed_s)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--grid", type=json.loads)
    parser.add_argument("--commit", help="which this is, where git cannot tell")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    device = torch.device(options.device)
    restore(options.files[0], device, {})
    rows = measure(options.files, device, options.grid or grid(), options.repeat)
    document = {"machine": describe_machine(device, options.commit), "rows": rows}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    for row in sorted(rows, key=lambda each: min(each["samples_s"])):
        rates = " ".join(f"{row['nbytes'] / s / 1e9:6.2f}" for s in row["samples_s"])
        print(f"{rates} GB/s  {row['file']}  {row['path_ran']}  {row['settings']}")


if __name__ == "__main__":
    main()
