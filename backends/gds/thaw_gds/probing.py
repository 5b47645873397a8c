"""What stands between this process and GPUDirect Storage; an empty answer means nothing does."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

NVIDIA_FS = Path("/proc/driver/nvidia-fs")
CUFILE_JSON = Path("/etc/cufile.json")
_COMPAT_HINT = 'ask for backend="gds-compat" to allow that'
_POSIX_SETTINGS = {
    "force_compat_mode",
    "gds_fallback_io",
    "posix_io_mode",
    "posix_unaligned_writes",
}
_STRINGS_AND_COMMENTS = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


def without_device(device: torch.device) -> str:
    """Say why this is no CUDA device that torch sees."""
    if device.type != "cuda":
        return f"serves CUDA devices, not those of type {device.type!r}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if (device.index or 0) >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} CUDA devices"
    return ""


def without_packages() -> str:
    """Say what is not installed, importing nothing."""
    missing = [name for name in ("kvikio", "cupy") if find_spec(name) is None]
    if not missing:
        return ""
    extra = "cuda12" if (torch.version.cuda or "13").startswith("12") else "cuda13"
    names = " and ".join({"kvikio": "KvikIO", "cupy": "CuPy"}[name] for name in missing)
    return f"not installed: {names} (pip install 'thaw-snapshot-gds[{extra}]')"


def without_library(*, cufile: bool) -> str:
    """Say why KvikIO cannot be loaded, or cuFile by it."""
    try:
        import cupy  # noqa: F401
        import kvikio
        import kvikio.cufile_driver
    except (ImportError, OSError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        if "libcufile" in first_line:
            return f"the cuFile library was not found: {first_line}"
        return f"KvikIO cannot be loaded: {first_line}"
    if cufile and kvikio.cufile_driver.libcufile_version() == (0, 0):
        return f"KvikIO found no cuFile library and would use POSIX reads; {_COMPAT_HINT}"
    return ""


def without_gds(nvidia_fs: Path, cufile_json: Path | None) -> str:
    """Say why cuFile could use POSIX reads here.

    Without a way for DMA between storage and device cuFile must not even be opened: it may wait
    forever. With one, it still falls back file by file unless its configuration forbids that.
    """
    path = cufile_json or Path(os.environ.get("CUFILE_ENV_PATH_JSON", CUFILE_JSON))
    try:
        settings = _settings(path)
    except ValueError as error:
        return f"cuFile's configuration {path} cannot be understood: {error}"
    if not os.path.exists(nvidia_fs) and not _uses_p2pdma(settings):
        return (
            f"the kernel module nvidia-fs is not loaded (there is no {nvidia_fs}) and cuFile is "
            f"not set to PCI P2PDMA, so cuFile would use POSIX reads; {_COMPAT_HINT}"
        )
    properties = settings.get("properties", {})
    forced = sorted(name for name in _POSIX_SETTINGS if properties.get(name))
    if _is_on("CUFILE_FORCE_COMPAT_MODE"):
        forced.append("CUFILE_FORCE_COMPAT_MODE")
    if forced:
        return f"{', '.join(forced)} tells cuFile to use POSIX reads; {_COMPAT_HINT}"
    if properties.get("allow_compat_mode", True):
        return (
            'cuFile may use POSIX reads without a word; set "allow_compat_mode": false under '
            f'"properties" in {path}, or {_COMPAT_HINT}'
        )
    return ""


def _settings(path: Path) -> dict[str, Any]:
    """Read cuFile's configuration: JSON with comments; no file means all defaults."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    found = json.loads(_STRINGS_AND_COMMENTS.sub(lambda match: match[1] or "", text))
    if not isinstance(found, dict) or not isinstance(found.get("properties", {}), dict):
        raise ValueError("it is no object, or its properties are none")
    return found


def _uses_p2pdma(settings: dict[str, Any]) -> bool:
    return bool(settings.get("properties", {}).get("use_pci_p2pdma")) or _is_on(
        "CUFILE_USE_PCIP2PDMA"
    )


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"}
