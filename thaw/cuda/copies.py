"""Copies between many places in the memory of a CUDA device, launched through CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .digests import cut_into_segments
from .loading import entered, id_of, kernel

_THREADS = 256


class DeviceCopies:
    """Copies within the memory of one CUDA device, thousands at a time; needs CuPy."""

    def __init__(self, device: torch.device) -> None:
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(id_of(device))
        self._copy = kernel(self._device.id, "thaw_copy")

    def start(self, copies: Sequence[tuple[int, int, int]], stream: int) -> Any:
        """Queue copies behind what a stream holds; return without waiting.

        Args:
            copies: from which address, to which, and how many bytes; no two write the same.
            stream: the address of a CUDA stream of this device.

        Returns:
            What has to live until they are done.
        """
        if not copies:
            return None
        rows = np.array(copies, dtype=np.uint64)
        which, firsts, sizes = cut_into_segments(rows[:, 2])
        parts = np.stack([rows[which, 0] + firsts, rows[which, 1] + firsts, sizes], axis=1)
        with self._device, entered(self._device.id, stream):
            table = self._cupy.asarray(parts)
            self._copy((len(parts),), (_THREADS,), (table,))
        return table
