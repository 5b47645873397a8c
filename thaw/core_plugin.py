"""What thaw itself registers: the reference backend, its formats, and the last word on `auto`."""

from __future__ import annotations

from collections.abc import Sequence

from .backend import Backend
from .builtin_formats import SafetensorsFormat, ThawFormat
from .format import Format
from .hookspecs import hookimpl
from .reference import ReferenceBackend


@hookimpl
def thaw_register_backends() -> Sequence[Backend]:
    return (ReferenceBackend(),)


@hookimpl
def thaw_register_formats() -> Sequence[Format]:
    return (ThawFormat(), SafetensorsFormat())


@hookimpl(trylast=True)
def thaw_select_backend(candidates: Sequence[Backend]) -> Backend:
    return candidates[0]
