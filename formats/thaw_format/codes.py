"""The error codes of the specification, the rule and the family of each."""

from __future__ import annotations

import os

from .errors import (
    ChecksumError,
    FeatureError,
    FormatError,
    LayoutError,
    MagicError,
    ManifestError,
    TruncatedError,
    VersionError,
)

_FAMILIES: dict[type[FormatError], dict[str, str]] = {
    FormatError: {"not-a-file": "PATH-1"},
    MagicError: {"bad-magic": "SB-2", "foreign-magic": "SB-3"},
    VersionError: {"unknown-major-version": "SB-4", "set-version": "SET-3"},
    FeatureError: {
        "unknown-required-feature": "SB-7",
        "unknown-required-section": "SEC-3",
        "set-unknown-feature": "SET-11",
    },
    TruncatedError: {
        "truncated-superblock": "SB-1",
        "truncated-file": "SB-10",
        "set-missing-index": "SET-1",
        "set-missing-rank": "SET-5",
    },
    ManifestError: {
        "json-encoding": "JSON-1",
        "json-syntax": "JSON-2",
        "json-duplicate-key": "JSON-3",
        "json-number": "JSON-4",
        "json-depth": "JSON-5",
        "json-unicode": "JSON-6",
        "missing-member": "MAN-1",
        "bad-member-type": "MAN-2",
        "bad-shard": "MAN-5",
        "bad-name": "TEN-1",
        "unknown-dtype": "TEN-2",
        "bad-shape": "TEN-3",
        "bad-storage-index": "TEN-4",
        "set-bad-index": "SET-2",
        "set-file-name": "SET-4",
        "set-rank": "SET-9",
        "set-kind": "SET-12",
        "set-place": "SET-13",
        "limit": "CON-3",
    },
    LayoutError: {
        "trailing-bytes": "SB-11",
        "bad-chunk-size": "SB-12",
        "bad-section-count": "SB-13",
        "section-overflow": "SEC-1",
        "section-out-of-bounds": "SEC-2",
        "missing-section": "SEC-5",
        "duplicate-section": "SEC-6",
        "section-overlap": "SEC-7",
        "misaligned-payload": "SEC-8",
        "bad-manifest-size": "SEC-9",
        "bad-digest-count": "SEC-10",
        "bad-private-section": "SEC-15",
        "bad-hash-section": "HASH-1",
        "misaligned-storage": "STO-1",
        "storage-out-of-bounds": "STO-2",
        "storage-overlap": "STO-3",
        "misaligned-tensor": "TEN-5",
        "tensor-overflow": "TEN-6",
        "tensor-out-of-bounds": "TEN-7",
        "set-size": "SET-6",
        "set-snapshot-id": "SET-8",
    },
    ChecksumError: {
        "superblock-checksum": "SB-6",
        "manifest-checksum": "SEC-11",
        "digests-checksum": "SEC-12",
        "section-checksum": "SEC-13",
        "chunk-checksum": "PAY-1",
        "nonzero-padding": "PAY-3",
        "chunk-hash": "HASH-2",
        "set-root-digest": "SET-7",
        "set-checksum": "SET-10",
    },
}

RULES: dict[str, str] = {code: rule for codes in _FAMILIES.values() for code, rule in codes.items()}
_CLASSES = {code: family for family, codes in _FAMILIES.items() for code in codes}


def format_error(
    code: str,
    message: str,
    *,
    path: str | os.PathLike[str] | None = None,
    offset: int | None = None,
) -> FormatError:
    """Build the error of a code, with its family and rule."""
    return _CLASSES[code](message, code=code, rule=RULES[code], path=path, offset=offset)
