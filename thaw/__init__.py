"""Freeze the exact bytes of model state to a file, and restore them bit-identical."""

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
from .freezing import freeze, seal
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
from .seam.backend import Backend, Progress, Support, Transfer
from .seam.format import Format
from .seam.hookspecs import hookimpl
from .seam.ordering import wait_for_caller
from .seam.plan import Extent, Read, ReadPlan, WritePlan
from .tensors.unfilled import UnfilledWarning
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
    "HasDescriptor",
    "HasLockedPages",
    "HostBuffer",
    "LayoutError",
    "MagicError",
    "ManifestError",
    "MismatchError",
    "PinnedSnapshot",
    "Place",
    "Progress",
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
    "convert",
    "crc32c",
    "diff",
    "format_error",
    "formats",
    "freeze",
    "hookimpl",
    "open",
    "open_ranks",
    "pin",
    "restore",
    "seal",
    "verify",
    "wait_for_caller",
]
