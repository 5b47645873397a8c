"""Compile the CUDA kernels to PTX for drivers from CUDA 12.0 and GPUs from Volta on.

python scripts/make_ptx.py            writes thaw/cuda/kernels.ptx
python scripts/make_ptx.py --check    fails if the file is not what the source compiles to

Needs the package nvidia-cuda-nvrtc-cu12, in the version below; no GPU and no toolkit.
"""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata
from pathlib import Path

PACKAGE, VERSION = "nvidia-cuda-nvrtc-cu12", "12.0.140"
ARCHITECTURE = "compute_70"
SOURCE = Path(__file__).parents[1] / "thaw" / "cuda" / "kernels.cu"
PTX = SOURCE.with_suffix(".ptx")


def main() -> int:
    ptx = compile_to_ptx(SOURCE.read_bytes())
    if "--check" not in sys.argv[1:]:
        PTX.write_bytes(ptx)
        return 0
    if PTX.exists() and PTX.read_bytes() == ptx:
        return 0
    print(f"{PTX.name} is not what {SOURCE.name} compiles to: run {Path(__file__).name}")
    return 1


def compile_to_ptx(source: bytes) -> bytes:
    """Compile CUDA C++ with NVRTC."""
    nvrtc = ctypes.CDLL(str(_library()))
    program = ctypes.c_void_p()
    options = [f"--gpu-architecture={ARCHITECTURE}", "--std=c++17"]
    words = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None))
    status = nvrtc.nvrtcCompileProgram(program, len(options), words)
    if status:
        raise SystemExit(_text(nvrtc, "ProgramLog", program).decode())
    ptx = _text(nvrtc, "PTX", program)
    _check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return ptx.rstrip(b"\0")


def _library() -> Path:
    if metadata.version(PACKAGE) != VERSION:
        raise SystemExit(f"{PACKAGE} is {metadata.version(PACKAGE)}, not {VERSION}")
    files = metadata.files(PACKAGE) or []
    return next(Path(str(f.locate())) for f in files if f.name.startswith("libnvrtc.so"))


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    nbytes = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(nbytes)))
    buffer = ctypes.create_string_buffer(nbytes.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(status: int) -> None:
    if status:
        raise SystemExit(f"NVRTC failed with status {status}")


if __name__ == "__main__":
    sys.exit(main())
