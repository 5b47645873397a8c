"""The GPUDirect Storage backends of thaw, on KvikIO: `gds` and `gds-compat`."""

from __future__ import annotations

from collections.abc import Sequence

from thaw import Backend, hookimpl

from .backend import GdsBackend, GdsCompatBackend

__all__ = ["GdsBackend", "GdsCompatBackend", "thaw_register_backends"]


@hookimpl
def thaw_register_backends() -> Sequence[Backend]:
    """Bring both; only `gds` may be chosen automatically."""
    return (GdsBackend(), GdsCompatBackend())
