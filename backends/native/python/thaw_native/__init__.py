"""The native backend of thaw: a plugin that registers it and prefers it for `backend="auto"`."""

from __future__ import annotations

from collections.abc import Sequence

from thaw import Backend, hookimpl

from .backend import NativeBackend

__all__ = ["NativeBackend"]


@hookimpl
def thaw_register_backends() -> Sequence[Backend]:
    return (NativeBackend(),)


@hookimpl
def thaw_select_backend(candidates: Sequence[Backend]) -> Backend | None:
    return next((each for each in candidates if isinstance(each, NativeBackend)), None)
