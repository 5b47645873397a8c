"""Safetensors files and sharded checkpoints, opened as snapshots and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaw_format.lookup import looked_up, places_of

if TYPE_CHECKING:
    from .errors import CODES
    from .folder import describe_pickles
    from .reading import open_checkpoint, open_file, recognizes
    from .structure import INDEX_NAME, METADATA_KEY, SINGLE_NAME
    from .torch_dtypes import DTYPES
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

_PLACES = places_of(
    __name__,
    {
        ".errors": "CODES",
        ".folder": "describe_pickles",
        ".reading": "open_checkpoint open_file recognizes",
        ".structure": "INDEX_NAME METADATA_KEY SINGLE_NAME",
        ".torch_dtypes": "DTYPES",
        ".writing": "write_checkpoint write_checkpoint_like write_snapshot",
    },
)

# A type checker reads the imports above, and knows of a name that there is none.
if not TYPE_CHECKING:
    __getattr__, __dir__ = looked_up(__name__, _PLACES)
