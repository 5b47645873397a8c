"""Which format a path is of, and which backend serves a device."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from thaw_format import FileSource, FormatError, Snapshot, describe
from thaw_safetensors import describe_pickles

from .backend import Backend, Support
from .errors import BackendError, MismatchError, UnavailableBackendError, UnknownBackendError
from .format import Format
from .plugins import registry

_log = logging.getLogger("thaw")
_HEAD_NBYTES = 4096


def find_format(path: str | os.PathLike[str]) -> Format:
    """Recognize the format of a file or folder.

    Raises:
        FormatError: no format knows it; the message says what it seems to be.
        OSError: it cannot be read.
    """
    path = Path(path)
    head = b""
    if not path.is_dir():
        source = FileSource(path)
        head = source.read(0, _HEAD_NBYTES)
        source.close()
    for each in registry().formats.values():
        if each.recognizes(path, head):
            return each
    known = ", ".join(registry().formats)
    if path.is_dir():
        pickles = describe_pickles(path)
        what = "a folder that holds no snapshot and no checkpoint"
        what += f": {pickles}" if pickles else ""
    else:
        what = f"unknown format: {describe(head) if head else 'the file is empty'}"
    raise FormatError(f"{what} (known formats: {known})", code="unknown-format", path=path)


def open_snapshot(path: str | os.PathLike[str], *, rank: int | None = None) -> Snapshot:
    """Open the snapshot of one rank: read and check everything but the tensors' bytes.

    Args:
        path: a file or folder of any known format.
        rank: which rank, where there are several.

    Raises:
        FormatError: the file is damaged or of an unknown format.
        MismatchError: there are several ranks and none was named, or not that one.
    """
    found = find_format(path)
    if rank is not None:
        try:
            return found.open_rank(Path(path), rank)
        except IndexError:
            raise MismatchError(f"{os.fspath(path)} has no rank {rank}") from None
    snapshots = found.open(Path(path))
    if len(snapshots) > 1:
        for each in snapshots:
            each.close()
        raise MismatchError(
            f"{os.fspath(path)} has {len(snapshots)} ranks; say which one with rank="
        )
    return snapshots[0]


def open_ranks(path: str | os.PathLike[str]) -> tuple[Snapshot, ...]:
    """Open the snapshots of all ranks; see `open_snapshot`."""
    return find_format(path).open(Path(path))


def select_backend(
    backend: str | Backend, operation: str, device: torch.device, path: Path
) -> Backend:
    """Resolve the word `backend=`; an explicit choice is that one or an error.

    Raises:
        UnknownBackendError: no backend has this name.
        UnavailableBackendError: it cannot serve the device here.
        BackendError: a plugin chose what it was not offered.
    """
    if isinstance(backend, str) and backend == "auto":
        return _auto(operation, device, path)
    if isinstance(backend, str):
        known = registry().backends
        if backend not in known:
            raise UnknownBackendError(backend, ("auto", *known))
        backend = known[backend]
    support = backend.probe(device)
    if not support.available:
        raise UnavailableBackendError(backend.name, device, support.reason)
    return backend


def _auto(operation: str, device: torch.device, path: Path) -> Backend:
    known = registry()
    # Others come before core's own: who installs a backend wants it used.
    others = [each for name, each in known.backends.items() if name != "reference"]
    ordered = [each for each in (*others, known.backends["reference"]) if each.automatic]
    supports = [(each, each.probe(device)) for each in ordered]
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


def _reasons(supports: list[tuple[Backend, Support]]) -> str:
    return "; ".join(f"{each.name}: {support.reason}" for each, support in supports)
