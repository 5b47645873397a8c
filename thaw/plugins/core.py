"""What thaw itself registers: the reference backend, its formats, and the last word on `auto`."""

from __future__ import annotations

from collections.abc import Sequence

from ..seam.backend import Backend
from ..seam.format import Format
from ..seam.hookspecs import hookimpl
from .formats import BUILT_IN
from .reference import ReferenceBackend


@hookimpl
def thaw_register_backends() -> Sequence[Backend]:
    return (ReferenceBackend(),)


@hookimpl
def thaw_register_formats() -> Sequence[Format]:
    return BUILT_IN


@hookimpl(trylast=True)
def thaw_select_backend(candidates: Sequence[Backend]) -> Backend:
    return candidates[0]
