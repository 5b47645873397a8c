"""From tensors to safetensors files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from thaw_format import JSON, FileTarget, TensorSpec, sealed

from .dense import check_storable, spec_of
from .folder import can_stand_alone, list_files, list_indexes
from .shard_file import write_header, write_values
from .structure import INDEX_NAME, SINGLE_NAME, SUFFIX, Structure, is_file_name, recall


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
    names = _assign(path, specs, files, max_shard_nbytes)
    texts = dict(metadata or {})
    if unknown := sorted(set(texts) - set(names)):
        raise ValueError(f"metadata for {unknown[0]!r}, which is not among the files to write")
    structure = Structure(names, texts, INDEX_NAME if len(names) > 1 else None)
    return _write(path, structure, specs, tensors.items())


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
    structure = recall(metadata, tensors)
    if structure is None:
        structure = Structure({_single_name(path): list(tensors)}, {})
    elif _is_single(path):
        texts = _agreed(structure.metadata.values())
        structure = Structure(
            {path.name: list(tensors)}, {} if texts is None else {path.name: texts}
        )
    elif structure.index is None and not can_stand_alone(structure.files):
        structure = replace(structure, index=INDEX_NAME)
    return _write(path, structure, specs, tensors.items())


def _is_single(path: Path) -> bool:
    return path.name.endswith(SUFFIX)


def _single_name(path: Path) -> str:
    return path.name if _is_single(path) else SINGLE_NAME


def _specs(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    specs = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name is {name!r}, not text")
        specs[name] = spec_of(name, tensor)
    return specs


def _agreed(texts: Iterable[Mapping[str, str]]) -> dict[str, str] | None:
    found: dict[str, set[str]] | None = None
    for each in texts:
        found = {} if found is None else found
        for key, text in each.items():
            found.setdefault(key, set()).add(text)
    if found is None:
        return None
    return {key: values.pop() for key, values in found.items() if len(values) == 1}


def _assign(
    path: Path,
    tensors: Mapping[str, TensorSpec],
    files: Mapping[str, str] | None,
    max_shard_nbytes: int | None,
) -> dict[str, list[str]]:
    if files is not None and max_shard_nbytes is not None:
        raise ValueError("files and max_shard_nbytes exclude each other")
    if files is not None:
        return _assigned(path, tensors, files)
    if max_shard_nbytes is None:
        return {_single_name(path): list(tensors)}
    if _is_single(path):
        raise ValueError(f"{path} is one file; max_shard_nbytes needs a folder")
    return _split(tensors, max_shard_nbytes)


def _assigned(
    path: Path, tensors: Mapping[str, TensorSpec], files: Mapping[str, str]
) -> dict[str, list[str]]:
    if differing := sorted(set(files) ^ set(tensors)):
        raise ValueError(f"{differing[0]!r} is not in both tensors and files")
    names: dict[str, list[str]] = {}
    for name in tensors:
        if not is_file_name(files[name]):
            raise ValueError(f"{files[name]!r} is not a plain name of a .safetensors file")
        names.setdefault(files[name], []).append(name)
    if _is_single(path) and set(names) - {path.name}:
        raise ValueError(f"{path} is one file; files with other names need a folder")
    return names or {_single_name(path): []}


def _split(tensors: Mapping[str, TensorSpec], max_shard_nbytes: int) -> dict[str, list[str]]:
    if max_shard_nbytes < 1:
        raise ValueError(f"max_shard_nbytes is {max_shard_nbytes}, not positive")
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        nbytes = tensor.nbytes
        if shards[-1] and held + nbytes > max_shard_nbytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += nbytes
    if len(shards) == 1:
        return {SINGLE_NAME: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, 1)
    }


def _write(
    path: Path,
    structure: Structure,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> list[Path]:
    check_storable(specs)
    folder = path.parent
    if not _is_single(path):
        folder = path
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_mixing(folder, structure)
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
            write_values(*places[name], tensor)
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
