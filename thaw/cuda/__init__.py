"""What runs on a CUDA device: CRC32C of bytes where they landed, and copies between many places."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PTX", "SEGMENT_NBYTES", "SOURCE"]

SOURCE = Path(__file__).with_name("kernels.cu")
"""The CUDA C++ source of the kernels."""

PTX = Path(__file__).with_name("kernels.ptx")
"""What `scripts/make_ptx.py` compiles it to; the driver takes it from there."""

SEGMENT_NBYTES = 65536
"""The most bytes of one segment, of which `thaw_remainders` makes one remainder."""
