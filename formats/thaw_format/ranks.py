"""Snapshots of several ranks: a folder of shards and its index (specification, section 12)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .codes import format_error
from .errors import FormatError, naming
from .limits import MAX_RANKS
from .shard import ShardFile, open_shard, opening, read_superblock, read_unparsed
from .source import FileSource
from .strict_json import parse_json, serialize_json
from .superblock import MAJOR, MINOR

INDEX_NAME = "snapshot.json"
MAX_INDEX_NBYTES = 1 << 24
_HEX = frozenset("0123456789abcdef")


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


def open_ranks(path: str | os.PathLike[str]) -> tuple[ShardFile, ...]:
    """Open every shard of a snapshot: of a file one, of a folder one a rank.

    Raises:
        FormatError: the folder or a file breaks a rule of the specification.
        OSError: something cannot be opened or read.
    """
    folder = Path(path)
    if not folder.is_dir():
        return (open_shard(folder),)
    index = read_index(folder)
    return _open_all(open_rank(folder, index, rank) for rank in range(len(index.ranks)))


def _open_all(shards: Iterable[ShardFile]) -> tuple[ShardFile, ...]:
    """Open shards as they are asked for; if one fails, close those before it."""
    with ExitStack() as stack:
        opened = tuple(stack.enter_context(shard) for shard in shards)
        stack.pop_all()
        return opened


def read_index(folder: str | os.PathLike[str]) -> Index:
    """Read `snapshot.json`, checking rules SET-1 to SET-4."""
    path = Path(folder, INDEX_NAME)
    if not path.is_file():
        raise format_error(
            "set-missing-index",
            f"no {INDEX_NAME}: the folder is an unfinished snapshot or none",
            path=folder,
        )
    source = FileSource(path)
    try:
        with naming(path):
            return _parse_index(source.read(0, MAX_INDEX_NBYTES), source.nbytes)
    finally:
        source.close()


def open_rank(folder: str | os.PathLike[str], index: Index, rank: int) -> ShardFile:
    """Open one rank's shard of a folder, checking it against the index (SET-5 to SET-9)."""
    entry, path = index.ranks[rank], Path(folder, index.ranks[rank].file)
    if not path.is_file():
        raise format_error("set-missing-rank", f"rank {rank} has no file", path=path)
    with opening(path) as source:
        return _open_checked(source, index.snapshot_id, entry, rank, len(index.ranks))


def _open_checked(
    source: FileSource, snapshot_id: str, entry: IndexEntry, rank: int, size: int
) -> ShardFile:
    _expect("set-size", "size", source.nbytes, entry.nbytes)
    superblock = read_superblock(source)
    _expect("set-root-digest", "root digest", f"{superblock.crc32c:08x}", entry.root_digest)
    _expect("set-snapshot-id", "snapshot id", superblock.snapshot_id.hex(), snapshot_id)
    shard = read_unparsed(source, superblock).parse()
    _expect("set-rank", "rank and size", (shard.shard.rank, shard.shard.size), (rank, size))
    return shard


def _expect(code: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise format_error(code, f"its {what} is {found}, {INDEX_NAME} says {expected}")


def open_rank_files(folder: str | os.PathLike[str]) -> tuple[ShardFile, ...]:
    """Open the shards that lie in a folder without an index, in the order of their names.

    Raises:
        FormatError: there is none, or one breaks a rule of the specification.
    """
    paths = sorted(Path(folder).glob("rank-[0-9]*-of-[0-9]*.thaw"))
    if not paths:
        raise format_error("set-missing-rank", "the folder has no rank's file", path=folder)
    return _open_all(map(open_shard, paths))


def serialize_index(shards: tuple[ShardFile, ...]) -> bytes:
    """Describe the shards of one snapshot, given in the order of ranks.

    Raises:
        FormatError: the shards are not of one snapshot, or ranks are missing or twice there.
    """
    for rank, shard in enumerate(shards):
        if (shard.shard.rank, shard.shard.size) != (rank, len(shards)):
            raise format_error("set-rank", f"is not rank {rank} of {len(shards)}", path=shard.path)
        if shard.path.name != (expected := rank_file(rank, len(shards))):
            raise format_error("set-file-name", f"is not called {expected!r}", path=shard.path)
        if shard.snapshot_id != shards[0].snapshot_id:
            raise format_error("set-snapshot-id", "is of another snapshot", path=shard.path)
    entries = [
        {
            "file": rank_file(rank, len(shards)),
            "nbytes": shard.superblock.file_nbytes,
            "root_digest": f"{shard.superblock.crc32c:08x}",
        }
        for rank, shard in enumerate(shards)
    ]
    return serialize_json(
        {
            "major": MAJOR,
            "minor": MINOR,
            "snapshot_id": shards[0].snapshot_id,
            "ranks": entries,
        }
    )


def _parse_index(data: bytes, nbytes: int) -> Index:
    if nbytes > MAX_INDEX_NBYTES:
        raise _bad_index(f"has {nbytes} bytes; at most {MAX_INDEX_NBYTES} are allowed")
    try:
        root = parse_json(data)
    except FormatError as error:
        raise _bad_index(error.message) from None
    for name, kind in (("major", int), ("minor", int), ("snapshot_id", str), ("ranks", list)):
        _require(root, name, kind)
    _require_hex(root["snapshot_id"], 32)
    if not 1 <= len(root["ranks"]) <= MAX_RANKS:
        raise _bad_index(f"names {len(root['ranks'])} ranks")
    ranks = tuple(_parse_entry(raw) for raw in root["ranks"])
    if root["major"] != MAJOR:
        raise format_error(
            "set-version", f"format version {root['major']}; this reader knows {MAJOR}.x"
        )
    for rank, entry in enumerate(ranks):
        if entry.file != (expected := rank_file(rank, len(ranks))):
            raise format_error(
                "set-file-name", f"rank {rank}'s file is {entry.file!r}, expected {expected!r}"
            )
    return Index(root["snapshot_id"], ranks)


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
    if len(text) != digits or not _HEX.issuperset(text):
        raise _bad_index(f"{text[:40]!r} is not {digits} lowercase hexadecimal digits")


def _bad_index(message: str) -> FormatError:
    return format_error("set-bad-index", f"{INDEX_NAME}: {message}")
