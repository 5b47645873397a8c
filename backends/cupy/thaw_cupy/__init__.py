"""The CuPy backend of thaw: a plugin that registers it. Read `backend.py` first."""

from __future__ import annotations

from collections.abc import Sequence

from thaw import Backend, hookimpl

from .backend import CupyBackend

__all__ = ["CupyBackend"]


@hookimpl
def thaw_register_backends() -> Sequence[Backend]:
    return (CupyBackend(),)
