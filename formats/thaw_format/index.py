"""The index of a snapshot of several ranks, `snapshot.json` (specification, section 12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checksum import crc32c
from .codes import format_error
from .errors import FormatError
from .limits import MAX_RANKS
from .strict_json import JSON, parse_json, serialize_json
from .superblock import MAJOR, MINOR

INDEX_NAME = "snapshot.json"
MAX_INDEX_NBYTES = 1 << 24

_HEX = frozenset("0123456789abcdef")
_CRC_MEMBER = re.compile(rb'"crc32c":"')
_NO_CRC = "0" * 8


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the index says of one rank's file."""

    file: str
    nbytes: int
    root_digest: str


@dataclass(frozen=True, slots=True)
class Index:
    """The contents of `snapshot.json`."""

    snapshot_id: str
    ranks: tuple[IndexEntry, ...]


def rank_file(rank: int, size: int) -> str:
    """Name the file of a rank (rule SET-4)."""
    return f"rank-{rank:05d}-of-{size:05d}.thaw"


def dump_index(index: Index) -> bytes:
    """Write an index as JSON, with its checksum (rule SET-10)."""
    ranks: list[JSON] = [
        {"file": each.file, "nbytes": each.nbytes, "root_digest": each.root_digest}
        for each in index.ranks
    ]
    data = serialize_json(
        {
            "major": MAJOR,
            "minor": MINOR,
            "crc32c": _NO_CRC,
            "required_features": [],
            "snapshot_id": index.snapshot_id,
            "ranks": ranks,
            "metadata": {},
        }
    )
    member = b'"crc32c":"'
    return data.replace(member + _NO_CRC.encode(), b"%b%08x" % (member, crc32c(data)), 1)


def parse_index(data: bytes, nbytes: int) -> Index:
    """Parse an index, checking rules SET-2 to SET-4, SET-10 and SET-11.

    Args:
        data: the text, or its beginning if it is longer than the format allows.
        nbytes: the size of the whole text.

    Raises:
        FormatError: with the code of the rule that is broken.
    """
    if nbytes > MAX_INDEX_NBYTES:
        raise _bad_index(f"has {nbytes} bytes; at most {MAX_INDEX_NBYTES} are allowed")
    root = _parse(data)
    _require(root, "major", int)
    if root["major"] != MAJOR:
        raise format_error(
            "set-version", f"format version {root['major']}; this reader knows {MAJOR}.x"
        )
    _check_crc(root, data)
    _check_features(root)
    index = _parse_members(root)
    for rank, entry in enumerate(index.ranks):
        if entry.file != (expected := rank_file(rank, len(index.ranks))):
            raise format_error(
                "set-file-name", f"rank {rank}'s file is {entry.file!r}, expected {expected!r}"
            )
    return index


def _parse(data: bytes) -> dict[str, Any]:
    try:
        return parse_json(data)
    except FormatError as error:
        if error.code == "limit":
            raise
        raise _bad_index(error.message) from None


def _check_crc(root: Mapping[str, Any], data: bytes) -> None:
    found = [match.end() for match in _CRC_MEMBER.finditer(data)]
    if not found:
        raise format_error(
            "set-checksum",
            f"{INDEX_NAME} has no checksum, as before version 1.0 was final: check the ranks with "
            "`thaw verify`, then seal the folder again with thaw.finish_ranks",
        )
    at = found[0]
    digits = data[at : at + 8].decode("latin-1")
    if len(found) > 1 or not _is_hex(digits, 8) or root.get("crc32c") != digits:
        raise format_error(
            "set-checksum", f"{INDEX_NAME}: crc32c is not once there, as 8 hexadecimal digits"
        )
    computed = crc32c(data[:at] + _NO_CRC.encode() + data[at + 8 :])
    if f"{computed:08x}" != digits:
        raise format_error(
            "set-checksum", f"{INDEX_NAME}: its CRC32C is {computed:08x}, expected {digits}"
        )


def _check_features(root: Mapping[str, Any]) -> None:
    needed = root.get("required_features", [])
    if type(needed) is not list or not all(type(each) is str for each in needed):
        raise _bad_index("member 'required_features' is not an array of strings")
    if needed:
        raise format_error(
            "set-unknown-feature",
            f"needs features {needed[:8]} that this reader lacks; use a newer version of thaw",
        )


def _parse_members(root: Mapping[str, Any]) -> Index:
    for name, kind in (("minor", int), ("snapshot_id", str), ("ranks", list)):
        _require(root, name, kind)
    if "metadata" in root:
        _require(root, "metadata", dict)
    _require_hex(root["snapshot_id"], 32)
    if not 1 <= len(root["ranks"]) <= MAX_RANKS:
        raise _bad_index(f"names {len(root['ranks'])} ranks")
    return Index(root["snapshot_id"], tuple(_parse_entry(raw) for raw in root["ranks"]))


def _parse_entry(raw: Any) -> IndexEntry:
    if type(raw) is not dict:
        raise _bad_index("an element of ranks is not an object")
    for name, kind in (("file", str), ("nbytes", int), ("root_digest", str)):
        _require(raw, name, kind)
    _require_hex(raw["root_digest"], 8)
    return IndexEntry(raw["file"], raw["nbytes"], raw["root_digest"])


def _require(parent: Mapping[str, Any], name: str, kind: type) -> None:
    if type(parent.get(name)) is not kind:
        raise _bad_index(f"member {name!r} is missing or not of type {kind.__name__}")


def _require_hex(text: str, digits: int) -> None:
    if not _is_hex(text, digits):
        raise _bad_index(f"{text[:40]!r} is not {digits} lowercase hexadecimal digits")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and _HEX.issuperset(text)


def _bad_index(message: str) -> FormatError:
    return format_error("set-bad-index", f"{INDEX_NAME}: {message}")
