"""Measure the reference backend on the CPU beside safetensors, in one run.

    python benchmarks/reference.py [--nbytes N] [--repeat R] [--folder DIR]   measures; writes JSON
    python benchmarks/make_pages.py                                           makes the page from it

Each case runs in a fresh process. Cases are interleaved, so that what else the machine does falls
on all of them alike. Every destination file is new, and the page cache is warm for every read: the
file is read once before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from gauges import describe_machine
from loading import load_thaw
from results import FOLDER, MIB, Figure, Row, at_least, at_most, write_results

FEW, MANY = 300, 20_000
NAMED = {"elapsed_s": "samples_s"}


def make(count: int, nbytes: int) -> dict[str, torch.Tensor]:
    """Make bf16 tensors of `nbytes` in total."""
    each = nbytes // count // 128 * 64
    return {
        f"model.layers.{i // 100}.block.{i % 100}.weight": torch.empty(
            each, dtype=torch.bfloat16
        ).random_(-99, 99)
        for i in range(count)
    }


def touch(tensors: dict[str, torch.Tensor]) -> int:
    """Read every byte."""
    return sum(int(t.view(torch.int64).sum()) for t in tensors.values())


def peak_rss() -> int:
    """Return the peak of this process alone; getrusage would include its parent's at the fork."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def read_once(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(4 * MIB)
        while file.readinto(buffer):
            pass


def case_restore_thaw(folder: Path, count: int, _nbytes: int) -> dict[str, float]:
    import thaw

    path = folder / f"{count}.thaw"
    read_once(path)
    base = peak_rss()
    began = time.perf_counter()
    report = thaw.restore(path, device="cpu", backend="reference").report
    elapsed_s = time.perf_counter() - began
    assert report.chunks_checked
    return {"elapsed_s": elapsed_s, "extra_rss": peak_rss() - base, "payload": report.nbytes}


def case_restore_safetensors(folder: Path, count: int, _nbytes: int) -> dict[str, float]:
    from safetensors.torch import load_file

    path = folder / f"{count}.safetensors"
    read_once(path)
    began = time.perf_counter()
    tensors = load_file(path)
    loaded_s = time.perf_counter() - began
    touch(tensors)
    return {"elapsed_s": time.perf_counter() - began, "untouched_s": loaded_s}


def case_restore_into_thaw(folder: Path, count: int, nbytes: int) -> dict[str, float]:
    """Fill tensors that are there, as a model has them."""
    import thaw

    into = make(count, nbytes)
    path = folder / f"{count}.thaw"
    read_once(path)
    began = time.perf_counter()
    thaw.restore(path, into=into, backend="reference")
    return {"elapsed_s": time.perf_counter() - began}


def case_restore_into_safetensors(folder: Path, count: int, nbytes: int) -> dict[str, float]:
    """Load and copy into tensors that are there, as `load_state_dict` does."""
    from safetensors.torch import load_file

    into = make(count, nbytes)
    path = folder / f"{count}.safetensors"
    read_once(path)
    began = time.perf_counter()
    for name, tensor in load_file(path).items():
        into[name].copy_(tensor)
    return {"elapsed_s": time.perf_counter() - began}


def case_clone_safetensors(folder: Path, count: int, _nbytes: int) -> dict[str, float]:
    """Load into memory of one's own, which a later change of the file cannot reach."""
    from safetensors.torch import load_file

    path = folder / f"{count}.safetensors"
    read_once(path)
    began = time.perf_counter()
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    assert len(tensors) == count
    return {"elapsed_s": time.perf_counter() - began}


def case_open_thaw(folder: Path, count: int, _nbytes: int) -> dict[str, float]:
    import thaw

    path = folder / f"{count}.thaw"
    began = time.perf_counter()
    with thaw.open(path) as snapshot:
        elapsed_s = time.perf_counter() - began
        manifest = snapshot.superblock.section(1).nbytes  # type: ignore[attr-defined]
    return {"elapsed_s": elapsed_s, "manifest": manifest}


def case_freeze_thaw(folder: Path, count: int, nbytes: int) -> dict[str, float]:
    import thaw

    tensors = make(count, nbytes)
    path = folder / "new.thaw"
    base, began = peak_rss(), time.perf_counter()
    thaw.freeze(tensors, path, backend="reference")
    elapsed_s = time.perf_counter() - began
    extra = max(0, peak_rss() - base)
    path.unlink()
    return {"elapsed_s": elapsed_s, "extra_rss": extra}


def case_freeze_safetensors(folder: Path, count: int, nbytes: int) -> dict[str, float]:
    from safetensors.torch import save_file

    tensors = make(count, nbytes)
    path = folder / "new.safetensors"
    began = time.perf_counter()
    save_file(tensors, path)
    elapsed_s = time.perf_counter() - began
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    synced_s = time.perf_counter() - began
    path.unlink()
    return {"elapsed_s": elapsed_s, "synced_s": synced_s}


def case_import_thaw(_folder: Path, _count: int, _nbytes: int) -> dict[str, float]:
    import thaw

    assert thaw.__version__
    return {"rss": _status("VmRSS")}


CASES: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    name.removeprefix("case_"): function
    for name, function in list(globals().items())
    if name.startswith("case_")
}


def measure(case: str, folder: Path, count: int, nbytes: int) -> dict[str, float]:
    """Run a case in a fresh process."""
    os.sync()
    command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
    command += ["--count", str(count), "--nbytes", str(nbytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    print(case, count, {key: round(value, 3) for key, value in found.items()}, flush=True)
    return found


def prepare(folder: Path, count: int, nbytes: int) -> None:
    from safetensors.torch import save_file

    import thaw

    tensors = make(count, nbytes)
    thaw.freeze(tensors, folder / f"{count}.thaw")
    save_file(tensors, folder / f"{count}.safetensors")


def machine() -> dict[str, object]:
    """Describe where this ran."""
    import safetensors

    return describe_machine(torch.device("cpu")) | {"safetensors": safetensors.__version__}


def run(folder: Path, nbytes: int, repeat: int) -> list[Row]:
    """Return a row for each case and count, with all its samples."""
    counts = (FEW, MANY)
    for count in counts:
        prepare(folder, count, nbytes)
    rows: dict[tuple[str, int], Row] = {}
    for _ in range(repeat):
        for case in CASES:
            for count in counts:
                if case == "import_thaw" and count != counts[0]:
                    continue
                fresh: Row = {"case": case, "tensors": count}
                row = rows.setdefault((case, count), fresh)
                for key, value in measure(case, folder, count, nbytes).items():
                    row.setdefault(NAMED.get(key, key), []).append(value)
    return list(rows.values())


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Say of each figure to reach what was found."""

    def of(case: str, count: int, key: str = "samples_s") -> list[float]:
        (found,) = ([*row[key]] for row in rows if (row["case"], row["tensors"]) == (case, count))
        return found

    def middle(case: str, count: int, key: str = "samples_s") -> float:
        return median(of(case, count, key))

    restore_s = middle("restore_thaw", FEW)
    touching = middle("restore_safetensors", FEW) / restore_s
    saving = middle("freeze_safetensors", FEW) / middle("freeze_thaw", FEW)
    beyond = max(of("restore_thaw", FEW, "extra_rss")) - middle("restore_thaw", FEW, "payload")
    freezing = max(of("freeze_thaw", FEW, "extra_rss"))
    opening, manifest = (middle("open_thaw", MANY, key) for key in ("samples_s", "manifest"))
    as_fast, many = "times as fast", f"{MANY:,} tensors"
    return [
        at_least("restore beside `load_file` and touching every byte", 1, as_fast, touching),
        at_least("freeze (synced) beside `save_file` (not synced)", 1, as_fast, saving),
        at_most("peak memory of a restore beyond the payload", 64, "MiB", beyond / MIB),
        at_most("peak memory of a freeze beyond the source", 64, "MiB", freezing / MIB),
        at_most(f"{many}: `thaw.open`", 0.3, "s", opening),
        at_most(
            f"{many}: restore",
            1.5,
            f"times that of {FEW}",
            middle("restore_thaw", MANY) / restore_s,
        ),
        at_most(f"{many}: manifest", 5, "MB", manifest / 1e6),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nbytes", type=int, default=4 * 10**9)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    if options.case:
        if options.case.endswith("thaw"):
            load_thaw()
        found = CASES[options.case](options.folder, options.count, options.nbytes)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="thaw-bench-", dir=options.folder) as folder:
        rows = run(Path(folder), options.nbytes, options.repeat)
    settings = {"nbytes": options.nbytes, "repeat": options.repeat}
    path = FOLDER / "reference.json"
    write_results(path, machine(), rows, figures(rows), settings=settings)


if __name__ == "__main__":
    main()
