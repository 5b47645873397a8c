"""From safetensors files to a snapshot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from thaw_format import FileSource, Snapshot, Source, Storage, TensorSpec, collector_paused, naming

from .dtypes import contiguous_stride
from .errors import checkpoint_error
from .folder import choose_files, list_files, list_indexes
from .header import MAX_HEADER_NBYTES, read_header
from .index import Index
from .selecting import OpenFile, select_listed
from .structure import INDEX_SUFFIX, SINGLE_NAME, SUFFIX, Structure, is_file_name, remember


def recognizes(path: Path, head: bytes) -> bool:
    """Say whether a path looks like a safetensors checkpoint.

    Args:
        head: the first 16 bytes of a file, empty for a folder.
    """
    if path.is_dir():
        return bool(list_indexes(path) or list_files(path))
    if path.name.endswith((SUFFIX, INDEX_SUFFIX)):
        return True
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_NBYTES


def open_file(source: Source) -> Snapshot:
    """Open a `.safetensors` file, wherever its bytes are; the source is closed with the snapshot.

    Raises:
        FormatError: the file is malformed.
    """
    try:
        with collector_paused(), naming(source.path):
            file = OpenFile(source.path.name, source, read_header(source))
            return _describe(source.path, [file], None)
    except BaseException:
        source.close()
        raise


def open_checkpoint(path: str | os.PathLike[str]) -> Snapshot:
    """Open a `.safetensors` file, a folder of them, or an index and its files.

    Of a folder, `model.safetensors` is the checkpoint where there is no index, as for
    transformers; other files beside it are not mixed in. An index is the authority: tensors that
    it does not list are left out, and a name that it lists and no file has, as that of a tied
    tensor, is left out too; both are logged as warnings. What is ambiguous is refused, and the
    message names the files: the path of a file or of an index says which is meant.

    The headers are read and checked, the tensors are not; the files stay open until the snapshot
    is closed.

    Raises:
        FormatError: a file or the index is malformed, they contradict each other, or the folder
            has more than one checkpoint.
        OSError: something cannot be opened or read.
    """
    path = Path(path)
    choice = choose_files(path)
    with collector_paused(), ExitStack() as stack:
        files = [_open_file(stack, choice.folder, name) for name in choice.files]
        if choice.index is None:
            _check_unique(files)
        else:
            files = select_listed(choice.folder, choice.index, files)
        snapshot = _describe(path, files, choice.index)
        # The snapshot closes the files from here on.
        stack.pop_all()
        return snapshot


def _open_file(stack: ExitStack, folder: Path, name: str) -> OpenFile:
    source = FileSource(folder / name)
    stack.callback(source.close)
    with naming(source.path):
        return OpenFile(name, source, read_header(source))


def _check_unique(files: Sequence[OpenFile]) -> None:
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


def _describe(path: Path, files: Sequence[OpenFile], index: Index | None) -> Snapshot:
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


def _structure(files: Sequence[OpenFile], index: Index | None) -> Structure:
    if not is_file_name(files[0].name):
        # A lone file may have any name; it is written again under the usual one.
        files = [replace(files[0], name=SINGLE_NAME)]
    names = {file.name: [entry.name for entry in file.header.entries] for file in files}
    texts = {file.name: file.header.metadata for file in files}
    metadata = {name: text for name, text in texts.items() if text is not None}
    if index is None:
        return Structure(names, metadata)
    return Structure(names, metadata, index.name, json.dumps(index.metadata))
