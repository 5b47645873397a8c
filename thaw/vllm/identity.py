"""What `weights.identity` was called before; it goes on for a release."""

import warnings

from .weights.identity import _ADVICE, check_identity, identify, rank_shard

__all__ = ["_ADVICE", "check_identity", "identify", "rank_shard"]

warnings.warn(f"{__name__} is called weights.identity now", DeprecationWarning, stacklevel=2)
