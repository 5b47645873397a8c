"""The JSON document: what was measured, where, and by which versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch

import thaw
from thaw.plugins.host import registry

from .disk import filesystem
from .rows import Row
from .shapes import BenchJSON, CeilingJSON, MachineJSON, MeasuredJSON, RowJSON
from .task import Task
from .ways import Ceiling, cores


def document(task: Task, ceilings: Sequence[Ceiling], rows: Sequence[Row]) -> BenchJSON:
    """Describe a benchmark so that it can be judged elsewhere."""
    return {
        "schema": "thaw.bench",
        "schema_version": 1,
        "thaw": thaw.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(torch.device(task.device)),
        "snapshot": _snapshot(task),
        "device": task.device,
        "folder_filesystem": filesystem(Path(task.folder)),
        "repeat": task.repeat,
        "ceilings": [_ceiling(each) for each in ceilings],
        "rows": [_row(each) for each in rows],
    }


def machine(device: torch.device) -> MachineJSON:
    """Describe this machine."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_nbytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": _driver() if on_gpu else None,
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "backends": _versions(),
    }


def _ceiling(each: Ceiling) -> CeilingJSON:
    return {
        "name": each.name,
        "gbps": each.gbps,
        "detail": [
            {
                "how": way.how,
                "gbps": way.gbps,
                "lowest": way.lowest,
                "highest": way.highest,
                "reason": way.reason,
            }
            for way in each.detail
        ],
    }


def _row(each: Row) -> RowJSON:
    return {
        "backend": each.backend,
        "device": each.device,
        "operation": each.operation,
        "route": each.route,
        "path_ran": each.route,
        "elapsed_s": list(each.elapsed_s),
        "nbytes": each.nbytes,
        "gbps": each.gbps,
        "identical": each.identical,
        "ceiling": each.ceiling,
        "share": each.share,
        "available": each.available,
        "error": each.error,
    }


def _snapshot(task: Task) -> MeasuredJSON:
    with thaw.open(task.path, rank=task.rank) as snapshot:
        return {
            "path": task.path,
            "format": snapshot.format,
            "tensors": len(snapshot.tensors),
            "nbytes": snapshot.nbytes,
        }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _driver() -> str | None:
    with suppress(OSError):
        said = Path("/proc/driver/nvidia/version").read_text()
        if found := re.search(r"\b\d{3,}(\.\d+)+\b", said):
            return found[0]
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _versions() -> dict[str, str]:
    found = {}
    for name in dict.fromkeys(registry().distributions.values()):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _commit() -> str | None:
    """Name the commit, if the code that runs is that of a checkout."""
    here = str(Path(__file__).parent)
    if _said("git", "-C", here, "ls-files", "--error-unmatch", "document.py") is None:
        return None
    return _said("git", "-C", here, "describe", "--always", "--dirty", "--exclude", "*")


def _said(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.split("\n")
    return lines[0].strip() or None if done.returncode == 0 else None
