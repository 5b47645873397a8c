"""Freeze the exact bytes of model state to a file, and restore them bit-identical."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaw_format.lookup import looked_up, places_of

if TYPE_CHECKING:
    from thaw_format import (
        ChecksumError,
        Chunks,
        Digests,
        FeatureError,
        FormatError,
        HasDescriptor,
        HasLockedPages,
        LayoutError,
        MagicError,
        ManifestError,
        RankOf,
        Shard,
        Snapshot,
        Source,
        Storage,
        Target,
        TensorSpec,
        ThawError,
        TruncatedError,
        VersionError,
        format_error,
    )
    from thaw_format.checksum import HostBuffer, crc32c

    from .comparing import diff
    from .converting import convert
    from .errors import (
        BackendError,
        MismatchError,
        TransferError,
        UnavailableBackendError,
        UnknownBackendError,
    )
    from .freezing import finish_ranks, freeze
    from .plugins.listing import backends, formats
    from .plugins.opening import open_ranks
    from .plugins.opening import open_snapshot as open  # noqa: A004
    from .reports import (
        BackendInfo,
        ConvertReport,
        Difference,
        FormatInfo,
        FreezeReport,
        Restored,
        RestoreReport,
        TensorDifference,
        VerifyReport,
    )
    from .restoring.api import restore
    from .restoring.pinning import PinnedSnapshot, pin
    from .seam.backend import Backend, Pending, Progress, Support, Transfer
    from .seam.digests import ChunkDigests, check_chunk
    from .seam.format import Format
    from .seam.hookspecs import hookimpl
    from .seam.ordering import wait_for_caller
    from .seam.pieces import ChunkPart, Part, Piece, cut_read, cut_write, runs_to_read
    from .seam.plan import Extent, Extents, Read, ReadPlan, WritePlan
    from .tensors.unfilled import UnfilledWarning
    from .verifying import verify
    from .version import __version__

__all__ = [
    "Backend",
    "BackendError",
    "BackendInfo",
    "ChecksumError",
    "ChunkDigests",
    "ChunkPart",
    "Chunks",
    "ConvertReport",
    "Difference",
    "Digests",
    "Extent",
    "Extents",
    "FeatureError",
    "Format",
    "FormatError",
    "FormatInfo",
    "FreezeReport",
    "HasDescriptor",
    "HasLockedPages",
    "HostBuffer",
    "LayoutError",
    "MagicError",
    "ManifestError",
    "MismatchError",
    "Part",
    "Pending",
    "Piece",
    "PinnedSnapshot",
    "Progress",
    "RankOf",
    "Read",
    "ReadPlan",
    "RestoreReport",
    "Restored",
    "Shard",
    "Snapshot",
    "Source",
    "Storage",
    "Support",
    "Target",
    "TensorDifference",
    "TensorSpec",
    "ThawError",
    "Transfer",
    "TransferError",
    "TruncatedError",
    "UnavailableBackendError",
    "UnfilledWarning",
    "UnknownBackendError",
    "VerifyReport",
    "VersionError",
    "WritePlan",
    "__version__",
    "backends",
    "check_chunk",
    "convert",
    "crc32c",
    "cut_read",
    "cut_write",
    "diff",
    "finish_ranks",
    "format_error",
    "formats",
    "freeze",
    "hookimpl",
    "open",
    "open_ranks",
    "pin",
    "restore",
    "runs_to_read",
    "verify",
    "wait_for_caller",
]

# Torch takes seconds to import: what needs it is imported when it is first looked up.
_PLACES = places_of(
    __name__,
    {
        ".comparing": "diff",
        ".converting": "convert",
        ".errors": "BackendError MismatchError TransferError UnavailableBackendError "
        "UnknownBackendError",
        ".freezing": "finish_ranks freeze",
        ".plugins.listing": "backends formats",
        ".plugins.opening": "open_ranks",
        ".reports": "BackendInfo ConvertReport Difference FormatInfo FreezeReport Restored "
        "RestoreReport TensorDifference VerifyReport",
        ".restoring.api": "restore",
        ".restoring.pinning": "PinnedSnapshot pin",
        ".seam.backend": "Backend Pending Progress Support Transfer",
        ".seam.digests": "ChunkDigests check_chunk",
        ".seam.format": "Format",
        ".seam.hookspecs": "hookimpl",
        ".seam.ordering": "wait_for_caller",
        ".seam.pieces": "ChunkPart Part Piece cut_read cut_write runs_to_read",
        ".seam.plan": "Extent Extents Read ReadPlan WritePlan",
        ".tensors.unfilled": "UnfilledWarning",
        ".verifying": "verify",
        ".version": "__version__",
        "thaw_format": "ChecksumError Chunks Digests FeatureError FormatError HasDescriptor "
        "HasLockedPages LayoutError MagicError ManifestError RankOf Shard Snapshot Source Storage "
        "Target TensorSpec ThawError TruncatedError VersionError format_error",
        "thaw_format.checksum": "HostBuffer crc32c",
    },
    open=("thaw.plugins.opening", "open_snapshot"),
)

_BEFORE = {"Place": "RankOf", "seal": "finish_ranks"}

# A type checker reads the imports above, and knows of a name that there is none.
if not TYPE_CHECKING:
    __getattr__, __dir__ = looked_up(__name__, _PLACES, _BEFORE)
