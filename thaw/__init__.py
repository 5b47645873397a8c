"""Freeze the exact bytes of model state to a file, and restore them bit-identical."""

from thaw_format import (
    ChecksumError,
    Chunks,
    Digests,
    FeatureError,
    FormatError,
    LayoutError,
    MagicError,
    ManifestError,
    Place,
    Shard,
    Snapshot,
    Source,
    Storage,
    Target,
    TensorSpec,
    ThawError,
    TruncatedError,
    VersionError,
)

from .backend import Backend, Extent, ReadPlan, Support, Transfer, WritePlan
from .comparing import diff
from .converting import convert
from .errors import (
    BackendError,
    MismatchError,
    TransferError,
    UnavailableBackendError,
    UnknownBackendError,
)
from .format import Format
from .freezing import freeze, seal
from .hookspecs import hookimpl
from .listing import backends, formats
from .pinning import PinnedSnapshot, pin
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
from .restoring import restore
from .selection import open_ranks
from .selection import open_snapshot as open  # noqa: A004
from .unfilled import UnfilledWarning
from .verifying import verify
from .version import __version__

__all__ = [
    "Backend",
    "BackendError",
    "BackendInfo",
    "ChecksumError",
    "Chunks",
    "ConvertReport",
    "Difference",
    "Digests",
    "Extent",
    "FeatureError",
    "Format",
    "FormatError",
    "FormatInfo",
    "FreezeReport",
    "LayoutError",
    "MagicError",
    "ManifestError",
    "MismatchError",
    "PinnedSnapshot",
    "Place",
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
    "convert",
    "diff",
    "formats",
    "freeze",
    "hookimpl",
    "open",
    "open_ranks",
    "pin",
    "restore",
    "seal",
    "verify",
]
