"""Snapshots of several ranks: a folder of shards and its index (specification, section 12)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from .codes import format_error
from .errors import FormatError, naming
from .index import (
    INDEX_NAME,
    MAX_INDEX_NBYTES,
    Index,
    IndexEntry,
    dump_index,
    parse_index,
    rank_file,
)
from .rank_source import RankSource
from .shard import ShardFile, closing_on_error, open_shard, read_superblock, read_unparsed
from .snapshot import RankOf, Shard
from .source import FileSource, Source
from .superblock import SUPERBLOCK_NBYTES, check_sections, parse_fields

RANK_FILES = "rank-[0-9]*-of-[0-9]*.thaw"
MAX_OPEN = 256
_AXES: dict[str, Callable[[Shard], RankOf | None]] = {
    "tp": lambda shard: shard.tp,
    "pp": lambda shard: shard.pp,
    "ep": lambda shard: shard.ep,
}
_ONE = RankOf(0, 1)


def open_ranks(path: str | os.PathLike[str]) -> tuple[ShardFile, ...]:
    """Open every shard of a snapshot: of a file one, of a folder one a rank.

    The files of ranks beyond the first 256 are closed until they are read.

    Raises:
        FormatError: the folder or a file breaks a rule of the specification.
        OSError: something cannot be opened or read.
    """
    folder = Path(path)
    if not folder.is_dir():
        return (open_shard(folder),)
    shards = _open_all(_open_indexed(folder, read_index(folder)))
    try:
        with naming(folder):
            _check_places([each.shard for each in shards])
    except BaseException:
        for each in shards:
            each.close()
        raise
    return shards


def _open_file(path: Path) -> ShardFile:
    """Open a shard whose file can be set aside."""
    with closing_on_error(RankSource(path)) as source:
        return read_unparsed(source, read_superblock(source)).parse()


def _open_indexed(folder: Path, index: Index) -> Iterator[ShardFile]:
    kinds: list[str] = []
    for rank in range(len(index.ranks)):
        shard = open_rank(folder, index, rank)
        kinds.append(shard.kind)
        if shard.kind != kinds[0]:
            shard.close()
            raise _other_kind(shard, kinds[0])
        yield shard


def _other_kind(shard: ShardFile, kind: str) -> FormatError:
    return format_error(
        "set-kind", f"is of kind {shard.kind!r}, rank 0 of {kind!r}", path=shard.path
    )


def _open_all(shards: Iterable[ShardFile]) -> tuple[ShardFile, ...]:
    """Open shards as they are asked for; if one fails, close those before it."""
    opened = []
    with ExitStack() as stack:
        for shard in shards:
            opened.append(stack.enter_context(shard))
            if len(opened) > MAX_OPEN:
                (source,) = shard.sources
                assert isinstance(source, RankSource)
                source.set_aside()
        stack.pop_all()
    return tuple(opened)


def read_index(folder: str | os.PathLike[str]) -> Index:
    """Read `snapshot.json`, checking rules SET-1 to SET-4, SET-10 and SET-11."""
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
            return parse_index(source.read(0, MAX_INDEX_NBYTES), source.nbytes)
    finally:
        source.close()


def open_rank(folder: str | os.PathLike[str], index: Index, rank: int) -> ShardFile:
    """Open one rank's shard of a folder, checking it against the index (SET-5 to SET-9)."""
    entry, path = index.ranks[rank], Path(folder, index.ranks[rank].file)
    if not path.is_file():
        raise format_error("set-missing-rank", f"rank {rank} has no file", path=path)
    with closing_on_error(RankSource(path)) as source:
        return _open_checked(source, index.snapshot_id, entry, rank, len(index.ranks))


def _open_checked(
    source: Source, snapshot_id: str, entry: IndexEntry, rank: int, size: int
) -> ShardFile:
    _expect("set-size", "size", source.nbytes, entry.nbytes)
    superblock = parse_fields(source.read(0, SUPERBLOCK_NBYTES), source.nbytes)
    _expect("set-root-digest", "root digest", f"{superblock.crc32c:08x}", entry.root_digest)
    _expect("set-snapshot-id", "snapshot id", superblock.snapshot_id.hex(), snapshot_id)
    check_sections(superblock)
    shard = read_unparsed(source, superblock).parse()
    _expect("set-rank", "rank and size", (shard.shard.rank, shard.shard.size), (rank, size))
    return shard


def _expect(code: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise format_error(code, f"its {what} is {found}, {INDEX_NAME} says {expected}")


def _check_places(places: Sequence[Shard]) -> None:
    """Check that all ranks say the same of the parallelism, and fill every place alike (SET-13)."""
    for axis, of in _AXES.items():
        sizes = {place.size if (place := of(each)) else None for each in places}
        if len(sizes) > 1:
            raise format_error("set-place", f"the ranks differ in {axis}: sizes {sizes}")
    pairs = Counter((each.tp or _ONE, each.pp or _ONE) for each in places)
    (tp, pp), most = pairs.most_common(1)[0]
    if most * tp.size * pp.size != len(places):
        raise format_error(
            "set-place",
            f"{len(places)} ranks do not fill tp {tp.size} x pp {pp.size}, each place alike: "
            f"tp {tp.rank} with pp {pp.rank} is there {most} times",
        )


def open_rank_files(folder: str | os.PathLike[str]) -> tuple[ShardFile, ...]:
    """Open the shards that lie in a folder without an index, in the order of their names.

    Where the files of one size are all there, those that another size left are not counted.

    Raises:
        FormatError: there is none, or one breaks a rule of the specification.
    """
    paths = sorted(Path(folder).glob(RANK_FILES))
    if not paths:
        raise format_error("set-missing-rank", "the folder has no rank's file", path=folder)
    return _open_all(map(_open_file, _of_one_size(paths)))


def has_every_rank(folder: str | os.PathLike[str]) -> bool:
    """Say whether the files of a folder without an index are all those of a size."""
    return len(_whole(sorted(Path(folder).glob(RANK_FILES)))) == 1


def _of_one_size(paths: list[Path]) -> list[Path]:
    whole = _whole(paths)
    return whole[0] if len(whole) == 1 else paths


def _whole(paths: list[Path]) -> list[list[Path]]:
    sizes: dict[str, list[Path]] = {}
    for path in paths:
        sizes.setdefault(path.stem.rpartition("-")[2], []).append(path)
    return [found for size, found in sizes.items() if size == f"{len(found):05d}"]


def serialize_index(shards: tuple[ShardFile, ...]) -> bytes:
    """Describe the shards of one snapshot, given in the order of ranks.

    Raises:
        FormatError: the shards are not of one snapshot, ranks are missing or twice there, or they
            differ in what a snapshot's shards have in common.
    """
    for rank, shard in enumerate(shards):
        if (shard.shard.rank, shard.shard.size) != (rank, len(shards)):
            raise format_error("set-rank", f"is not rank {rank} of {len(shards)}", path=shard.path)
        if shard.path.name != (expected := rank_file(rank, len(shards))):
            raise format_error("set-file-name", f"is not called {expected!r}", path=shard.path)
        if shard.snapshot_id != shards[0].snapshot_id:
            raise format_error("set-snapshot-id", "is of another snapshot", path=shard.path)
        if shard.kind != shards[0].kind:
            raise _other_kind(shard, shards[0].kind)
    with naming(shards[0].path.parent):
        _check_places([each.shard for each in shards])
    entries = (
        IndexEntry(
            rank_file(rank, len(shards)),
            shard.superblock.file_nbytes,
            f"{shard.superblock.crc32c:08x}",
        )
        for rank, shard in enumerate(shards)
    )
    return dump_index(Index(shards[0].superblock.snapshot_id.hex(), tuple(entries)))
