"""The index of a sharded checkpoint: which file each tensor comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw_format import FileSource, naming

from .errors import checkpoint_error
from .json_object import parse_object
from .structure import is_file_name

MAX_INDEX_NBYTES = 100_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """What an index file says.

    Attributes:
        weight_map: for each tensor its file.
        metadata: what it says of the whole, but for the size.
    """

    name: str
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def files(self) -> list[str]:
        return sorted(set(self.weight_map.values()))


def read_index(path: Path) -> Index:
    """Read an index; whether its files are there is not looked at.

    Raises:
        FormatError: the index is malformed, or names a file that is not plainly named.
    """
    source = FileSource(path)
    try:
        with naming(path):
            members = _parse(source)
    finally:
        source.close()
    metadata = members.get("metadata")
    kept = dict(metadata) if type(metadata) is dict else {}
    kept.pop("total_size", None)
    return Index(path.name, members["weight_map"], kept)


def check_files(path: Path, index: Index) -> None:
    """Make sure that the files of an index lie beside it.

    Raises:
        TruncatedError: one does not.
    """
    for file in index.files:
        if not (path.parent / file).exists():
            raise checkpoint_error(
                "safetensors-missing-file",
                f"weight_map names {file[:200]!r}, which is not in the folder",
                path=path,
            )


def _parse(source: FileSource) -> dict[str, Any]:
    if source.nbytes > MAX_INDEX_NBYTES:
        raise checkpoint_error(
            "safetensors-index",
            f"has {source.nbytes} bytes; at most {MAX_INDEX_NBYTES} are allowed",
        )
    members = parse_object(source.read(0, source.nbytes))
    weight_map: Any = members.get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise checkpoint_error("safetensors-index", "has no weight_map that names tensors")
    for file in weight_map.values():
        if type(file) is not str:
            raise checkpoint_error("safetensors-index", "weight_map maps not names to file names")
        if not is_file_name(file):
            raise checkpoint_error(
                "safetensors-file-name",
                f"weight_map names {file[:200]!r}, not a plain name of a .safetensors file",
            )
    return members
