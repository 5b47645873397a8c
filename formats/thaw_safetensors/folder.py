"""The files of a checkpoint folder, and its index."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thaw_format import FileSource, naming

from .errors import checkpoint_error
from .json_object import parse_object
from .structure import INDEX_NAME, INDEX_SUFFIX, is_file_name

MAX_INDEX_NBYTES = 100_000_000
_NUMBERED = re.compile(r"(.*)-([0-9]{5,})-of-([0-9]{5,})\.safetensors")


def list_files(folder: Path) -> list[str]:
    """Name the visible `.safetensors` files of a folder, sorted."""
    return sorted(filter(is_file_name, os.listdir(folder)))


def list_indexes(folder: Path) -> list[str]:
    """Name the index files of a folder, sorted."""
    return sorted(name for name in os.listdir(folder) if is_file_name(name, INDEX_SUFFIX))


def find_index(folder: Path) -> str | None:
    """Name the index of a folder, None if it has none.

    Raises:
        ManifestError: there are several, none of them with the usual name.
    """
    found = list_indexes(folder)
    if INDEX_NAME in found or not found:
        return INDEX_NAME if found else None
    if len(found) > 1:
        raise checkpoint_error(
            "safetensors-several-indexes",
            f"the folder has several indexes ({', '.join(found)}) and no {INDEX_NAME}",
            path=folder,
        )
    return found[0]


def find_files(folder: Path) -> list[str]:
    """Name the files of a folder without an index.

    Raises:
        TruncatedError: there is none, or one of a numbered series is missing.
    """
    files = list_files(folder)
    if not files:
        raise checkpoint_error(
            "safetensors-missing-file", "the folder has no .safetensors file", path=folder
        )
    for file in files:
        _check_series(folder, file, files)
    return files


def _check_series(folder: Path, file: str, files: list[str]) -> None:
    match = _NUMBERED.fullmatch(file)
    if not match:
        return
    count = sum(
        (other := _NUMBERED.fullmatch(each)) is not None and other.group(1, 3) == match.group(1, 3)
        for each in files
    )
    if count != int(match[3]):
        raise checkpoint_error(
            "safetensors-missing-file",
            f"the folder has {count} of the {int(match[3])} files that {file} is one of",
            path=folder,
        )


def read_weight_map(path: Path) -> Mapping[str, str]:
    """Read from an index the file of each tensor.

    Raises:
        FormatError: the index is malformed, or names a file that is missing or not plainly named.
    """
    source = FileSource(path)
    try:
        with naming(path):
            weight_map = _parse_index(source)
            for file in sorted(set(weight_map.values())):
                _check_file(path.parent, file)
            return weight_map
    finally:
        source.close()


def _parse_index(source: FileSource) -> dict[str, str]:
    if source.nbytes > MAX_INDEX_NBYTES:
        raise checkpoint_error(
            "safetensors-index",
            f"has {source.nbytes} bytes; at most {MAX_INDEX_NBYTES} are allowed",
        )
    weight_map: Any = parse_object(source.read(0, source.nbytes)).get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise checkpoint_error("safetensors-index", "has no weight_map that names tensors")
    if not all(type(file) is str for file in weight_map.values()):
        raise checkpoint_error("safetensors-index", "weight_map maps not names to file names")
    return weight_map


def _check_file(folder: Path, file: str) -> None:
    if not is_file_name(file):
        raise checkpoint_error(
            "safetensors-file-name",
            f"weight_map names {file[:200]!r}, not a plain name of a .safetensors file",
        )
    if not (folder / file).exists():
        raise checkpoint_error(
            "safetensors-missing-file",
            f"weight_map names {file[:200]!r}, which is not in the folder",
        )
