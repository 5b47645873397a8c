"""What may keep this backend from working here."""

from __future__ import annotations

import torch


def obstacle(device: torch.device) -> str | None:
    """Say why the memory of a device cannot be moved here; None where it can."""
    if device.type != "cuda":
        return f"it moves the memory of CUDA devices, not of {device.type!r}"
    try:
        import cupy
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return "CuPy is not installed: install cupy-cuda13x or cupy-cuda12x"
        return f"CuPy cannot be imported: {_one_line(error.__cause__ or error)}"
    runtime = cupy.cuda.runtime
    try:
        if not runtime.driverGetVersion():
            return "there is no CUDA driver"
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return f"CuPy finds no CUDA device: {_one_line(error)}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    count = min(count, torch.cuda.device_count())
    if (device.index or 0) >= count:
        return f"CUDA devices here: {count}; there is no {device}"
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
