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
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

MIB = 1 << 20
RESULTS = Path(__file__).with_name("results") / "reference.json"


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
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    import safetensors

    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_nbytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def run(folder: Path, nbytes: int, repeat: int) -> dict[str, object]:
    counts = (300, 20_000)
    for count in counts:
        prepare(folder, count, nbytes)
    samples: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeat):
        for case in CASES:
            for count in counts:
                if case == "import_thaw" and count != counts[0]:
                    continue
                found = measure(case, folder, count, nbytes)
                samples.setdefault(f"{case}/{count}", []).append(found)
    return {"machine": machine(), "nbytes": nbytes, "repeat": repeat, "samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nbytes", type=int, default=4 * 10**9)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    if options.case:
        found = CASES[options.case](options.folder, options.count, options.nbytes)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="thaw-bench-", dir=options.folder) as folder:
        results = run(Path(folder), options.nbytes, options.repeat)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
