"""Torch's element types for those of the specification (section 9)."""

from __future__ import annotations

import torch

from .dtypes import ITEMSIZES, TORCH_DTYPES

DTYPES: dict[str, torch.dtype] = {name: TORCH_DTYPES[name] for name in ITEMSIZES}
