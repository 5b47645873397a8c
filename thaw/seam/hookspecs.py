"""What a plugin may implement: entry-point group `thaw`, one module or object a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import torch

    from .backend import Backend
    from .format import Format

hookspec = pluggy.HookspecMarker("thaw")
hookimpl = pluggy.HookimplMarker("thaw")


@hookspec
def thaw_register_backends() -> Sequence[Backend]:
    """Return the backends that this plugin brings; import no GPU library to do so."""
    return ()


@hookspec
def thaw_register_formats() -> Sequence[Format]:
    """Return the file formats that this plugin brings."""
    return ()


@hookspec(firstresult=True)
def thaw_select_backend(
    candidates: Sequence[Backend], operation: str, device: torch.device, path: Path
) -> Backend | None:
    """Choose for `backend="auto"` among the backends that can serve the device.

    Args:
        candidates: available ones, core's reference last.
        operation: "read" or "write".

    Returns:
        One of the candidates, or None to leave the choice to others.
    """
