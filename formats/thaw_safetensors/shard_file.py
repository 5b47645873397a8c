"""What `part_file` was called before; it goes on for a release."""

import warnings

from .part_file import write_part_file as write_shard_file

__all__ = ["write_shard_file"]

warnings.warn(f"{__name__} is called part_file now", DeprecationWarning, stacklevel=2)
