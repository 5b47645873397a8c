"""Torch's element types for those of the safetensors format."""

from __future__ import annotations

import thaw_format
import torch

from .dtypes import WORDS

DTYPES: dict[str, torch.dtype] = {name: thaw_format.DTYPES[word] for name, word in WORDS.items()}
