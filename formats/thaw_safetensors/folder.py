"""The files of a checkpoint folder: which of them are the checkpoint."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from thaw_format import FormatError

from .errors import checkpoint_error
from .index import Index, check_files, read_index
from .structure import INDEX_NAME, INDEX_SUFFIX, SINGLE_NAME, is_file_name

_log = logging.getLogger("thaw")
_NUMBERED = re.compile(r"(.*)-([0-9]{5,})-of-([0-9]{5,})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".bin.index.json")
_LISTED = 4


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The files that a checkpoint is made of, and its index if it has one."""

    folder: Path
    files: Sequence[str]
    index: Index | None = None


def list_files(folder: Path) -> list[str]:
    """Name the visible `.safetensors` files of a folder, sorted."""
    return sorted(filter(is_file_name, os.listdir(folder)))


def list_indexes(folder: Path) -> list[str]:
    """Name the index files of a folder, sorted."""
    return sorted(name for name in os.listdir(folder) if is_file_name(name, INDEX_SUFFIX))


def describe_pickles(folder: Path) -> str:
    """Say what to do with the pickles that a folder has in place of a checkpoint; empty if none."""
    found = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLES))
    if not found:
        return ""
    return (
        f"it has {_listed(found)}, and thaw reads no pickles, which can run code: load the model "
        "where you trust it, and save it with save_pretrained(folder, safe_serialization=True) or "
        "safetensors.torch.save_file"
    )


def choose_files(path: Path) -> Choice:
    """Choose the files that a path means: a file itself, an index with its files, or a folder's.

    Of a folder, `model.safetensors` is the checkpoint where there is no index, and else what the
    index lists; other files beside them are left alone. Without both it is the only file, or the
    only numbered series of files.

    Raises:
        FormatError: files are missing, an index is malformed, or there is more than one checkpoint.
    """
    if path.is_dir():
        found = _find_index(path)
        return _indexed(path, found) if found else Choice(path, _find_files(path))
    if is_file_name(path.name, INDEX_SUFFIX):
        index = read_index(path)
        check_files(path, index)
        return Choice(path.parent, index.files, index)
    return Choice(path.parent, [path.name])


def can_stand_alone(files: Collection[str]) -> bool:
    """Say whether files are found to be a checkpoint in a folder of their own, without an index."""
    series = {_series_of(file) for file in files}
    found = series.pop()
    return not series and (found[1] if found else 1) == len(files)


def _find_index(folder: Path) -> Index | None:
    found = list_indexes(folder)
    if len(found) > 1 and INDEX_NAME not in found:
        raise checkpoint_error(
            "safetensors-several-indexes",
            f"the folder has several indexes ({', '.join(found)}) and no {INDEX_NAME}; give the "
            "path of the one that is meant",
            path=folder,
        )
    if not found:
        return None
    return read_index(folder / (INDEX_NAME if INDEX_NAME in found else found[0]))


def _indexed(folder: Path, index: Index) -> Choice:
    """Take the files of an index, unless a whole checkpoint that it does not list lies beside."""
    path = folder / index.name
    beside = (SINGLE_NAME, index.name.removesuffix(".index.json"))
    others = [each for each in beside if each not in index.files and (folder / each).exists()]
    if not others:
        check_files(path, index)
        return Choice(folder, index.files, index)
    if any((folder / file).exists() for file in index.files):
        raise _ambiguous(
            folder,
            f"{others[0]}, and {index.name}, which does not list it: two checkpoints, whose "
            "tensors may differ. Give the path of the one that is meant, or remove the other",
        )
    _log.warning("%s: left alone: none of the files that it lists is there", path)
    return Choice(folder, [others[0]])


def _find_files(folder: Path) -> list[str]:
    """Name the files of a folder without an index."""
    files = list_files(folder)
    if not files:
        pickles = describe_pickles(folder)
        what = "the folder has no .safetensors file" + (f"; {pickles}" if pickles else "")
        raise checkpoint_error("safetensors-missing-file", what, path=folder)
    if SINGLE_NAME in files:
        return _single(folder, files)
    if len({_series_of(file) or file for file in files}) > 1:
        raise _ambiguous(
            folder,
            f"{_listed(files)}, and neither {SINGLE_NAME} nor an index that says which of them "
            "are the checkpoint. Give the path of one file, or move the others away",
        )
    _check_series(folder, files)
    return files


def _single(folder: Path, files: Sequence[str]) -> list[str]:
    """Take `model.safetensors`, unless files lie beside it that were cut from another of it."""
    stem = SINGLE_NAME.removesuffix(".safetensors")
    pieces = [file for file in files if (series := _series_of(file)) and series[0] == stem]
    if pieces:
        raise _ambiguous(
            folder,
            f"{SINGLE_NAME}, and {_listed(pieces)} of another checkpoint. Give the path of the "
            "file that is meant, or move the others away",
        )
    if others := [file for file in files if file != SINGLE_NAME]:
        _log.info("%s: %s alone is the checkpoint, not %s", folder, SINGLE_NAME, _listed(others))
    return [SINGLE_NAME]


def _check_series(folder: Path, files: Sequence[str]) -> None:
    series = _series_of(files[0])
    if series and len(files) != series[1]:
        raise checkpoint_error(
            "safetensors-missing-file",
            f"the folder has {len(files)} of the {series[1]} files that {files[0]} is one of",
            path=folder,
        )


def _series_of(file: str) -> tuple[str, int] | None:
    """Say which series of how many files a file is one of."""
    match = _NUMBERED.fullmatch(file)
    return (match[1], int(match[3])) if match else None


def _ambiguous(folder: Path, what: str) -> FormatError:
    return checkpoint_error(
        "safetensors-ambiguous",
        f"it is not plain which files are the checkpoint: the folder has {what}",
        path=folder,
    )


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return ", ".join(files[:_LISTED]) + more
