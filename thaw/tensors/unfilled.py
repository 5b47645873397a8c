"""A warning of memory that was just made, and that a restore did not fill."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch

_LISTED = 3


class UnfilledWarning(UserWarning):
    """A restore left buffers as they were that nothing seems to have been written to."""


def warn_of_unfilled(
    path: object, tensors: Mapping[str, torch.Tensor], unfilled: Sequence[str], stacklevel: int
) -> None:
    """Warn of buffers that stay as they are in a target to which nothing was written so far.

    After `Module.to_empty` the buffers that a module has built itself hold what memory happened to
    hold, and a checkpoint lacks them. Torch counts what is written to a tensor in place: a module
    that was initialized, or restored to before, has tensors whose count is not 0.
    """
    if not unfilled or any(map(_is_written, tensors.values())):
        return
    listed = ", ".join(map(repr, unfilled[:_LISTED])) + (" ..." if unfilled[_LISTED:] else "")
    warnings.warn(
        f"{path} lacks {listed}, and nothing was written to the target since it was made: if that "
        "was by Module.to_empty, these hold no values; compute them, in place (copy_) if it is "
        "before the restore",
        UnfilledWarning,
        stacklevel + 1,
    )


def _is_written(tensor: torch.Tensor) -> bool:
    # Inference tensors have no count, and nothing can be said of them.
    return tensor.is_inference() or tensor._version > 0
