"""Safetensors files and sharded checkpoints, opened as snapshots and written."""

from .dtypes import DTYPES
from .errors import CODES
from .folder import describe_pickles
from .reading import open_checkpoint, open_file, recognizes
from .structure import INDEX_NAME, METADATA_KEY, SINGLE_NAME
from .writing import write_checkpoint, write_checkpoint_like, write_snapshot

__all__ = [
    "CODES",
    "DTYPES",
    "INDEX_NAME",
    "METADATA_KEY",
    "SINGLE_NAME",
    "describe_pickles",
    "open_checkpoint",
    "open_file",
    "recognizes",
    "write_checkpoint",
    "write_checkpoint_like",
    "write_snapshot",
]
