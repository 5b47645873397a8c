"""The error codes of safetensors checkpoints and the family of each."""

from __future__ import annotations

import os

from thaw_format import FormatError, LayoutError, ManifestError, TruncatedError

CODES: dict[str, type[FormatError]] = {
    "safetensors-truncated": TruncatedError,
    "safetensors-missing-file": TruncatedError,
    "safetensors-header-length": LayoutError,
    "safetensors-size": LayoutError,
    "safetensors-hole": LayoutError,
    "safetensors-overlap": LayoutError,
    "safetensors-trailing-bytes": LayoutError,
    "safetensors-json": ManifestError,
    "safetensors-duplicate-key": ManifestError,
    "safetensors-member": ManifestError,
    "safetensors-dtype": ManifestError,
    "safetensors-shape": ManifestError,
    "safetensors-duplicate-name": ManifestError,
    "safetensors-several-indexes": ManifestError,
    "safetensors-ambiguous": ManifestError,
    "safetensors-index": ManifestError,
    "safetensors-file-name": ManifestError,
}


def checkpoint_error(
    code: str,
    message: str,
    *,
    path: str | os.PathLike[str] | None = None,
    offset: int | None = None,
) -> FormatError:
    """Build the error of a code, of its family."""
    return CODES[code](message, code=code, path=path, offset=offset)
