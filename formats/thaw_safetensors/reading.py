"""From safetensors files to a snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from thaw_format import FileSource, Snapshot, Storage, TensorSpec, collector_paused, naming

from .dtypes import contiguous_stride
from .errors import checkpoint_error
from .folder import find_files, find_index, list_files, list_indexes, read_weight_map
from .header import MAX_HEADER_NBYTES, Header, read_header
from .structure import SINGLE_NAME, SUFFIX, Structure, is_file_name, remember


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    name: str
    source: FileSource
    header: Header


def recognizes(path: Path, head: bytes) -> bool:
    """Say whether a path looks like a safetensors checkpoint.

    Args:
        head: the first 16 bytes of a file, empty for a folder.
    """
    if path.is_dir():
        return bool(list_indexes(path) or list_files(path))
    if path.name.endswith(SUFFIX):
        return True
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_NBYTES


def open_checkpoint(path: str | os.PathLike[str]) -> Snapshot:
    """Open a `.safetensors` file, or a folder of them with or without an index.

    The headers are read and checked, the tensors are not; the files stay open until the snapshot
    is closed.

    Raises:
        FormatError: a file or the index is malformed, or they contradict each other.
        OSError: something cannot be opened or read.
    """
    path = Path(path)
    if not path.is_dir():
        return _open(path, path.parent, [path.name], None, None)
    index = find_index(path)
    if index is None:
        return _open(path, path, find_files(path), None, None)
    weight_map = read_weight_map(path / index)
    return _open(path, path, sorted(set(weight_map.values())), index, weight_map)


def _open(
    path: Path,
    folder: Path,
    names: Sequence[str],
    index: str | None,
    weight_map: Mapping[str, str] | None,
) -> Snapshot:
    with collector_paused(), ExitStack() as stack:
        files = [_open_file(stack, folder, name) for name in names]
        _check_unique(files)
        if index is not None and weight_map is not None:
            _check_index(folder / index, files, weight_map)
        snapshot = _describe(path, files, index)
        # The snapshot closes the files from here on.
        stack.pop_all()
        return snapshot


def _open_file(stack: ExitStack, folder: Path, name: str) -> _File:
    source = FileSource(folder / name)
    stack.callback(source.close)
    with naming(source.path):
        return _File(name, source, read_header(source))


def _check_unique(files: Sequence[_File]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        for entry in file.header.entries:
            if entry.name in seen:
                raise checkpoint_error(
                    "safetensors-duplicate-name",
                    f"tensor {entry.name[:200]!r} is in {seen[entry.name]} too",
                    path=file.source.path,
                )
            seen[entry.name] = file.name


def _check_index(path: Path, files: Sequence[_File], weight_map: Mapping[str, str]) -> None:
    found = {entry.name: file.name for file in files for entry in file.header.entries}
    for name, file in weight_map.items():
        if found.get(name) != file:
            raise checkpoint_error(
                "safetensors-index", f"tensor {name[:200]!r} is not in {file}", path=path
            )
    for name, file in found.items():
        if name not in weight_map:
            raise checkpoint_error(
                "safetensors-index", f"does not name tensor {name[:200]!r} of {file}", path=path
            )


def _describe(path: Path, files: Sequence[_File], index: str | None) -> Snapshot:
    storages: list[Storage] = []
    tensors: dict[str, TensorSpec] = {}
    for number, file in enumerate(files):
        for entry in file.header.entries:
            stride = contiguous_stride(entry.shape)
            tensors[entry.name] = TensorSpec(entry.dtype, entry.shape, stride, len(storages), 0)
            storages.append(Storage(entry.start, entry.end - entry.start, number))
    return Snapshot(
        path=path,
        format="safetensors",
        sources=tuple(file.source for file in files),
        storages=tuple(storages),
        tensors=tensors,
        digests=(None,) * len(files),
        metadata=remember(_structure(files, index)),
    )


def _structure(files: Sequence[_File], index: str | None) -> Structure:
    if not is_file_name(files[0].name):
        # A lone file may have any name; it is written again under the usual one.
        files = [replace(files[0], name=SINGLE_NAME)]
    names = {file.name: [entry.name for entry in file.header.entries] for file in files}
    texts = {file.name: file.header.metadata for file in files}
    metadata = {name: text for name, text in texts.items() if text is not None}
    return Structure(names, metadata, index)
