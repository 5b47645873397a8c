"""Which tensors go to which files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from thaw_format import JSON, TensorSpec

from .folder import can_stand_alone
from .structure import INDEX_NAME, SINGLE_NAME, SUFFIX, Structure, is_file_name, recall


def arrange_like(
    path: Path,
    tensors: Mapping[str, TensorSpec],
    metadata: Mapping[str, JSON],
    max_shard_nbytes: int | None,
) -> Structure:
    """Arrange tensors in the files that metadata remembers, or in files of a size.

    Raises:
        ValueError: a single file has no several of a size.
    """
    known = recall(metadata, tensors) or Structure({_single_name(path): list(tensors)}, {})
    if max_shard_nbytes is None and not is_single(path):
        return with_index(known)
    names = assign(path, tensors, None, max_shard_nbytes)
    texts = _agreed(known.metadata.values())
    every = {} if texts is None else dict.fromkeys(names, texts)
    return with_index(Structure(names, every, None, known.index_metadata))


def with_index(structure: Structure) -> Structure:
    """Give a structure an index, if its files need one to be found to be a checkpoint."""
    if structure.index is not None or can_stand_alone(structure.files):
        return structure
    return replace(structure, index=INDEX_NAME)


def is_single(path: Path) -> bool:
    """Say whether a destination is one file, not a folder."""
    return path.name.endswith(SUFFIX)


def _single_name(path: Path) -> str:
    return path.name if is_single(path) else SINGLE_NAME


def _agreed(texts: Iterable[Mapping[str, str]]) -> dict[str, str] | None:
    found: dict[str, set[str]] | None = None
    for each in texts:
        found = {} if found is None else found
        for key, text in each.items():
            found.setdefault(key, set()).add(text)
    if found is None:
        return None
    return {key: values.pop() for key, values in found.items() if len(values) == 1}


def assign(
    path: Path,
    tensors: Mapping[str, TensorSpec],
    files: Mapping[str, str] | None,
    max_shard_nbytes: int | None,
) -> dict[str, list[str]]:
    """Name the files to write, and the tensors of each.

    Raises:
        ValueError: what is asked for does not fit.
    """
    if files is not None and max_shard_nbytes is not None:
        raise ValueError("files and max_shard_nbytes exclude each other")
    if files is not None:
        return _assigned(path, tensors, files)
    if max_shard_nbytes is None:
        return {_single_name(path): list(tensors)}
    return _split(path, tensors, max_shard_nbytes)


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
    if is_single(path) and set(names) - {path.name}:
        raise ValueError(f"{path} is one file; files with other names need a folder")
    return names or {_single_name(path): []}


def _split(
    path: Path, tensors: Mapping[str, TensorSpec], max_shard_nbytes: int
) -> dict[str, list[str]]:
    if is_single(path):
        raise ValueError(f"{path} is one file; max_shard_nbytes needs a folder")
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
