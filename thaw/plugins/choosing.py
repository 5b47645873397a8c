"""Which backend serves a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from thaw_format import Source

from ..errors import BackendError, UnavailableBackendError, UnknownBackendError
from ..seam.backend import Backend, Support
from .host import registry

_log = logging.getLogger("thaw")


def select_backend(
    backend: str | Backend,
    operation: str,
    device: torch.device,
    path: Path,
    sources: Sequence[Source] = (),
) -> Backend:
    """Resolve the word `backend=`; an explicit choice is that one or an error.

    Args:
        sources: those that it will read.

    Raises:
        UnknownBackendError: no backend has this name.
        UnavailableBackendError: it cannot serve the device here, or not these sources.
        BackendError: a plugin chose what it was not offered.
    """
    if isinstance(backend, str) and backend == "auto":
        return _auto(operation, device, path, sources)
    if isinstance(backend, str):
        known = registry().backends
        if backend not in known:
            raise UnknownBackendError(backend, ("auto", *known))
        backend = known[backend]
    support = _support(backend, device, sources)
    if not support.available:
        raise UnavailableBackendError(backend.name, device, support.reason)
    return backend


def _auto(operation: str, device: torch.device, path: Path, sources: Sequence[Source]) -> Backend:
    known = registry()
    # Others come before core's own: who installs a backend wants it used.
    others = [each for name, each in known.backends.items() if name != "reference"]
    ordered = [each for each in (*others, known.backends["reference"]) if each.automatic]
    supports = [(each, _support(each, device, sources)) for each in ordered]
    candidates = [each for each, support in supports if support.available]
    if not candidates:
        raise UnavailableBackendError("auto", device, _reasons(supports))
    chosen: Backend = known.manager.hook.thaw_select_backend(
        candidates=candidates, operation=operation, device=device, path=path
    )
    if not any(chosen is each for each in candidates):
        listed = ", ".join(each.name for each in candidates)
        raise BackendError(
            f"a plugin's thaw_select_backend chose {chosen!r} to {operation} on {device}, which is "
            f"none of the candidates ({listed}): name the backend, or uninstall the plugin"
        )
    _log.info("backend %s chosen to %s %s on %s", chosen.name, operation, path, device)
    return chosen


def _support(backend: Backend, device: torch.device, sources: Sequence[Source]) -> Support:
    support = backend.probe(device)
    for source in sources if support.available else ():
        if not backend.serves(source):
            return Support(False, f"it does not read from a {type(source).__name__}")
    return support


def _reasons(supports: list[tuple[Backend, Support]]) -> str:
    return "; ".join(f"{each.name}: {support.reason}" for each, support in supports)
