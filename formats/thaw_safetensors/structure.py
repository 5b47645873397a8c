"""Which files a checkpoint is made of, and how a snapshot's metadata remembers it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thaw_format import JSON

from .json_object import parse_object

INDEX_NAME = "model.safetensors.index.json"
INDEX_SUFFIX = ".safetensors.index.json"
SINGLE_NAME = "model.safetensors"
SUFFIX = ".safetensors"
METADATA_KEY = "thaw.safetensors"


@dataclass(frozen=True, slots=True)
class Structure:
    """The files of a checkpoint.

    Attributes:
        files: for each file the names of its tensors.
        metadata: the `__metadata__` of the files that have one.
        index: the name of the index file, None without one.
        index_metadata: what the index says of the whole, but for the size, as JSON text: it may
            have fractions.
    """

    files: Mapping[str, Sequence[str]]
    metadata: Mapping[str, Mapping[str, str]]
    index: str | None = None
    index_metadata: str = "{}"


def is_file_name(name: object, suffix: str = SUFFIX) -> bool:
    """Say whether a value is the plain, visible name of a file with a suffix."""
    return (
        isinstance(name, str)
        and name.endswith(suffix)
        and not name.startswith(".")
        and not any(char in name for char in "/\\\0")
    )


def remember(structure: Structure) -> dict[str, JSON]:
    """Describe a structure as the metadata of a snapshot."""
    value: dict[str, JSON] = {
        "files": list(structure.files),
        "metadata": {file: dict(texts) for file, texts in structure.metadata.items()},
    }
    if structure.index is not None:
        value["index"] = structure.index
    if structure.index_metadata != "{}":
        value["index_metadata"] = structure.index_metadata
    if structure.index is not None or len(structure.files) > 1:
        value["weight_map"] = {
            name: file for file, names in structure.files.items() for name in names
        }
    return {METADATA_KEY: value}


def recall(metadata: Mapping[str, JSON], names: Collection[str]) -> Structure | None:
    """Find in a snapshot's metadata the structure that holds the named tensors.

    Returns:
        None if there is none, or one that does not fit the names or itself.
    """
    raw: Any = metadata.get(METADATA_KEY)
    if not isinstance(raw, dict):
        return None
    files = _recall_files(raw, names)
    texts, index = raw.get("metadata", {}), raw.get("index")
    if files is None or not _are_texts(texts):
        return None
    if index is not None and not is_file_name(index, INDEX_SUFFIX):
        return None
    kept = {file: text for file, text in texts.items() if file in files}
    return Structure(files, kept, index, _recall_index_metadata(raw, names))


def _recall_index_metadata(raw: dict[str, Any], names: Collection[str]) -> str:
    """Find what the index said of the whole; of a part of it that may be wrong."""
    text = raw.get("index_metadata")
    if not isinstance(text, str) or len(names) < len(raw.get("weight_map", names)):
        return "{}"
    try:
        parse_object(text.encode())
    except ValueError:
        return "{}"
    return text


def _recall_files(raw: dict[str, Any], names: Collection[str]) -> dict[str, list[str]] | None:
    files = raw.get("files")
    if not isinstance(files, list) or not files or not all(map(is_file_name, files)):
        return None
    if "weight_map" not in raw:
        return {files[0]: list(names)} if len(files) == 1 else None
    weight_map = raw["weight_map"]
    if not isinstance(weight_map, dict) or not _is_total(weight_map, files, names):
        return None
    found: dict[str, list[str]] = {file: [] for file in files}
    for name in names:
        found[weight_map[name]].append(name)
    emptied = {file for file in weight_map.values() if not found[file]}
    return {file: held for file, held in found.items() if file not in emptied} or None


def _is_total(weight_map: dict[str, Any], files: list[str], names: Collection[str]) -> bool:
    known = set(files)
    if not all(isinstance(file, str) and file in known for file in weight_map.values()):
        return False
    return all(name in weight_map for name in names)


def _are_texts(raw: Any) -> bool:
    return isinstance(raw, dict) and all(
        isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        for texts in raw.values()
    )
