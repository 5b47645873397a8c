"""From tensors to safetensors files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from thaw_format import JSON, FileTarget, Snapshot, TensorSpec, sealed
from thaw_format.sealing import sync_folder

from .arranging import arrange_like, assign, is_single, with_index
from .dense import check_storable, spec_of
from .folder import list_files, list_indexes
from .part_file import write_header, write_values
from .structure import INDEX_SUFFIX, Structure


def write_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    *,
    files: Mapping[str, str] | None = None,
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    max_shard_nbytes: int | None = None,
) -> list[Path]:
    """Write tensors as contiguous values to a `.safetensors` file, or else to a folder.

    Every file appears whole or not at all, the index last. Tied, overlapping and expanded tensors
    are written once a name.

    Args:
        files: for each tensor its file in the folder; several files get an index.
        metadata: for each file its `__metadata__`; of a single file by the name it is written to.
        max_shard_nbytes: the most bytes of tensors a file of the folder holds; one larger tensor
            gets a file of its own.

    Returns:
        The files written, the index last.

    Raises:
        TypeError: a tensor has an element type that the format lacks, or no plain memory.
        ValueError: names, files and metadata do not fit each other.
        FileExistsError: the folder holds files of another checkpoint, which would mix.
        OSError: a file cannot be written.
    """
    path = Path(path)
    specs = _specs(tensors)
    names = assign(path, specs, files, max_shard_nbytes)
    texts = dict(metadata or {})
    if unknown := sorted(set(texts) - set(names)):
        raise ValueError(f"metadata for {unknown[0]!r}, which is not among the files to write")
    return _write(path, with_index(Structure(names, texts)), specs, tensors.items())


def write_checkpoint_like(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, JSON],
) -> list[Path]:
    """Write tensors to the same files that a checkpoint had when it was opened.

    A path that ends in `.safetensors` gets one file, with the entries of `__metadata__` that no
    two files contradict each other in. A folder gets the files that the metadata remembers, or one
    file if it remembers none that fit, and an index where the files need one to be found.

    Args:
        metadata: that of the snapshot which `open_checkpoint` returned.

    Returns:
        The files written, the index last.

    Raises:
        TypeError: a tensor has an element type that the format lacks, or no plain memory.
        ValueError: a tensor has a reserved name.
        FileExistsError: the folder holds files of another checkpoint, which would mix.
        OSError: a file cannot be written.
    """
    path = Path(path)
    specs = _specs(tensors)
    return _write(path, arrange_like(path, specs, metadata, None), specs, tensors.items())


def write_snapshot(
    path: str | os.PathLike[str],
    snapshot: Snapshot,
    names: Sequence[str],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    max_shard_nbytes: int | None = None,
) -> list[Path]:
    """Write tensors of a snapshot as they are read, to files as of `write_checkpoint_like`.

    Args:
        names: the tensors to write.
        tensors: each of them with its name, in any order; none is kept.
        max_shard_nbytes: the most bytes of tensors a file of the folder holds, in place of the
            files that the snapshot's metadata remembers.

    Returns, Raises:
        As `write_checkpoint_like`.
    """
    path = Path(path)
    specs = {name: snapshot.tensors[name] for name in names}
    structure = arrange_like(path, specs, snapshot.metadata, max_shard_nbytes)
    return _write(path, structure, specs, tensors)


def _specs(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    specs = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name is {name!r}, not text")
        specs[name] = spec_of(name, tensor)
    return specs


def _write(
    path: Path,
    structure: Structure,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> list[Path]:
    check_storable(specs)
    if path.name.endswith(INDEX_SUFFIX):
        raise ValueError(f"{path} is the name of an index; name the folder that will hold it")
    if is_single(path):
        return _write_files(path.parent, structure, specs, tensors)
    with _folder(path):
        _refuse_mixing(path, structure)
        return _write_files(path, structure, specs, tensors)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder if there is none; a block that fails then leaves none."""
    if path.exists():
        yield
        return
    path.mkdir(parents=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.rmdir()
        raise
    sync_folder(path.parent)


def _write_files(
    folder: Path,
    structure: Structure,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> list[Path]:
    written = [folder / file for file in structure.files]
    with ExitStack() as stack:
        # Files get their names as the stack unwinds: entered first, the index comes last.
        if structure.index is not None:
            written.append(folder / structure.index)
            _write_index(stack.enter_context(sealed(written[-1])), structure, specs)
        places: dict[str, tuple[FileTarget, int]] = {}
        for file, names in structure.files.items():
            target = stack.enter_context(sealed(folder / file))
            chosen = {name: specs[name] for name in names}
            starts = write_header(target, chosen, structure.metadata.get(file))
            places |= {name: (target, start) for name, start in starts.items()}
        for name, tensor in tensors:
            write_values(*places.pop(name), tensor)
            # Its memory is free before the next is read.
            del tensor
        if places:
            raise ValueError(f"no bytes were given for tensor {min(places)!r}")
    return written


def _refuse_mixing(folder: Path, structure: Structure) -> None:
    present = {*list_files(folder), *list_indexes(folder)}
    if structure.index is None and len(structure.files) == 1:
        present -= set(structure.files)
    if present:
        raise FileExistsError(
            errno.EEXIST,
            f"the folder already holds {min(present)}, which would mix with what is written; "
            "name another folder or remove it",
            os.fspath(folder),
        )


def _write_index(target: FileTarget, structure: Structure, specs: Mapping[str, TensorSpec]) -> None:
    weight_map = {name: file for file, names in structure.files.items() for name in names}
    whole = {"total_size": sum(spec.nbytes for spec in specs.values())}
    index = {
        "metadata": dict(sorted((json.loads(structure.index_metadata) | whole).items())),
        "weight_map": dict(sorted(weight_map.items())),
    }
    with os.fdopen(os.dup(target.fileno()), "w", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=2) + "\n")
