"""The invalid vectors of sets that break several rules: what is checked first is reported."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from vector_builder import File, Object, manifest, text
from vector_case import Case, Content, Folder, build, invalid, rank_shard, ranks, sealed

INDEX = "snapshot.json"
ONE, TWO, THREE = (f"rank-{rank:05}-of-00003.thaw" for rank in range(3))
SET = ranks(*(rank_shard(rank, 3) for rank in range(3)))
SAID: Object = json.loads(build(SET[INDEX]))
OTHER_ID = {"snapshot_id": bytes(16)}


def _case(rules: str, code: str, variant: str, description: str, content: Content) -> list[Case]:
    where = "before" if code.startswith("set-") else "in-set-before"
    return invalid(rules, code, {f"{where}-{variant}": (description, content)})


def _index(said: Object, *, seal: bool = True) -> Folder:
    return SET | {INDEX: sealed(text(said)) if seal else text(said)}


def _without(*names: str, base: Folder | None = None) -> Folder:
    return {name: data for name, data in (base or SET).items() if name not in names}


def _shards(*changed: File | None) -> Folder:
    """Make the set with other shards in the place of some, and an index that fits them."""
    return ranks(
        *(each or rank_shard(rank, 3) for rank, each in enumerate((*changed, None, None)[:3]))
    )


def _rank(rank: int, base: Folder | None = None, **members: Any) -> Folder:
    said: Object = deepcopy(json.loads(build((base or SET)[INDEX])))
    said["ranks"][rank] |= members
    return (base or SET) | {INDEX: sealed(text(said))}


def _renamed() -> Object:
    said = deepcopy(SAID)
    said["ranks"][1]["file"] = "../x"
    return said


def _lacking(said: Object, name: str) -> Object:
    less = deepcopy(said)
    del less["ranks"][2][name]
    return less


NO_RANKS = {name: value for name, value in SAID.items() if name != "ranks"}
PLACE = {"tp": {"rank": 0, "size": 2}}
UNKNOWN_DTYPE = text(
    manifest(
        shard={"rank": 2, "size": 3},
        storages=[{"offset": 0, "nbytes": 24}],
        tensors={"w": {"dtype": "x", "shape": [], "stride": [], "storage": 0, "offset": 0}},
    )
)
NO_PAYLOAD = {"payload": {"type": 5}}

CASES: list[Case] = [
    *_case(
        "SET-2 SET-3",
        "set-bad-index",
        "version",
        "major 2, and a member twice",
        SET | {INDEX: text(SAID | {"major": 2})[:-1] + b',"x":1,"x":1}'},
    ),
    *_case(
        "SET-2 SET-10",
        "set-bad-index",
        "checksum",
        "a major that is a string, and a wrong checksum",
        _index(SAID | {"major": "1", "crc32c": "0" * 8}, seal=False),
    ),
    *_case(
        "SET-3 SET-11",
        "set-version",
        "feature",
        "major 2 and an unknown feature",
        _index(SAID | {"major": 2, "required_features": ["x"]}),
    ),
    *_case(
        "SET-10 SET-11",
        "set-checksum",
        "feature",
        "a wrong checksum and an unknown feature",
        _index(SAID | {"required_features": ["x"]}, seal=False),
    ),
    *_case(
        "SET-10 SET-2",
        "set-checksum",
        "members",
        "a wrong checksum and no ranks",
        _index(NO_RANKS, seal=False),
    ),
    *_case(
        "SET-10 SET-2",
        "set-checksum",
        "feature-type",
        "a wrong checksum and required_features that is no array",
        _index(SAID | {"required_features": 1}, seal=False),
    ),
    *_case(
        "SET-11 SET-2",
        "set-unknown-feature",
        "members",
        "an unknown feature and no ranks",
        _index(NO_RANKS | {"required_features": ["x"]}),
    ),
    *_case(
        "SET-11 SET-2",
        "set-unknown-feature",
        "types",
        "an unknown feature and members of other types",
        _index(SAID | {"required_features": ["x"], "minor": "", "snapshot_id": 0, "metadata": 0}),
    ),
    *_case(
        "SET-11 SET-4",
        "set-unknown-feature",
        "names",
        "an unknown feature and a path for a file name",
        _index(_renamed() | {"required_features": ["x"]}),
    ),
    *_case(
        "SET-2 SET-4",
        "set-bad-index",
        "names",
        "a path for the file name of rank 1, and no nbytes of rank 2",
        _index(_lacking(_renamed(), "nbytes")),
    ),
    *_case(
        "SET-4 SET-5",
        "set-file-name",
        "files",
        "a path for the file name of rank 1, and no file of rank 0",
        _without(ONE, base=_index(_renamed())),
    ),
    *_case(
        "SET-6 SET-5",
        "set-size",
        "next-rank",
        "another size of rank 0, and no file of rank 1",
        _without(TWO, base=_rank(0, nbytes=1)),
    ),
    *_case(
        "SET-6 SB-2",
        "set-size",
        "shard",
        "a file of another size that is no shard",
        SET | {TWO: b"nothing"},
    ),
    *_case(
        "SB-6 SET-7",
        "superblock-checksum",
        "digest",
        "a damaged superblock, and another root digest",
        _rank(
            1, _shards(None, rank_shard(1, 3, head={"superblock_crc32c": 1})), root_digest="0" * 8
        ),
    ),
    *_case(
        "SB-7 SET-7",
        "unknown-required-feature",
        "digest",
        "a required feature of a shard, and another root digest",
        _rank(
            1, _shards(None, rank_shard(1, 3, head={"required_features": 1})), root_digest="0" * 8
        ),
    ),
    *_case(
        "SB-12 SET-8",
        "bad-chunk-size",
        "id",
        "chunks of three bytes, and another snapshot id",
        _shards(None, rank_shard(1, 3, head=OTHER_ID | {"chunk_nbytes": 3})),
    ),
    *_case(
        "SET-7 SET-8",
        "set-root-digest",
        "id",
        "another root digest and another snapshot id",
        _rank(1, _shards(None, rank_shard(1, 3, head=OTHER_ID)), root_digest="0" * 8),
    ),
    *_case(
        "SET-7 SEC-5",
        "set-root-digest",
        "sections",
        "another root digest, and a shard without a payload",
        _rank(1, _shards(None, rank_shard(1, 3, entries=NO_PAYLOAD)), root_digest="0" * 8),
    ),
    *_case(
        "SET-8 SEC-5",
        "set-snapshot-id",
        "sections",
        "another snapshot id, and a shard without a payload",
        _shards(None, rank_shard(1, 3, head=OTHER_ID, entries=NO_PAYLOAD)),
    ),
    *_case(
        "SET-8 SEC-11",
        "set-snapshot-id",
        "manifest",
        "another snapshot id and a damaged manifest",
        _shards(None, rank_shard(1, 3, head=OTHER_ID, entries={"manifest": {"crc32c": 1}})),
    ),
    *_case(
        "SEC-11 SET-5",
        "manifest-checksum",
        "next-rank",
        "a damaged manifest of rank 0, and no file of rank 1",
        _without(TWO, base=_shards(rank_shard(0, 3, entries={"manifest": {"crc32c": 1}}))),
    ),
    *_case(
        "SB-12 SET-6",
        "bad-chunk-size",
        "next-rank",
        "chunks of three bytes in rank 0, and another size of rank 2",
        _rank(2, _shards(rank_shard(0, 3, head={"chunk_nbytes": 3})), nbytes=1),
    ),
    *_case(
        "JSON-2 SET-5",
        "json-syntax",
        "next-rank",
        "a manifest of rank 1 that is not JSON, and no file of rank 2",
        _without(THREE, base=_shards(None, rank_shard(1, 3, manifest=b"not JSON"))),
    ),
    *_case(
        "TEN-2 SET-9",
        "unknown-dtype",
        "rank",
        "an unknown dtype in the shard of another rank",
        _shards(None, rank_shard(1, 3, manifest=UNKNOWN_DTYPE)),
    ),
    *_case(
        "SET-9 SET-5",
        "set-rank",
        "next-rank",
        "the shard of rank 1 in the place of rank 0, and no file of rank 1",
        _without(TWO, base=_shards(rank_shard(1, 3))),
    ),
    *_case(
        "SET-9 SET-12",
        "set-rank",
        "kind",
        "the shard of rank 2 in the place of rank 1, of another kind",
        _shards(None, rank_shard(2, 3, kind="kv")),
    ),
    *_case(
        "SET-12 SET-5",
        "set-kind",
        "next-rank",
        "another kind of rank 1, and no file of rank 2",
        _without(THREE, base=_shards(None, rank_shard(1, 3, kind="kv"))),
    ),
    *_case(
        "SET-12 SET-13",
        "set-kind",
        "places",
        "another kind and another place of rank 1",
        _shards(None, rank_shard(1, 3, PLACE, kind="kv")),
    ),
    *_case(
        "SET-5 SET-13",
        "set-missing-rank",
        "places",
        "places that do not fit in ranks 0 and 1, and no file of rank 2",
        _without(THREE, base=_shards(rank_shard(0, 3, PLACE), rank_shard(1, 3))),
    ),
    *_case(
        "SEC-12 SET-13",
        "digests-checksum",
        "places",
        "places that do not fit in ranks 0 and 1, and damaged digests of rank 2",
        _shards(
            rank_shard(0, 3, PLACE), None, rank_shard(2, 3, entries={"digests": {"crc32c": 1}})
        ),
    ),
    *_case(
        "SET-13 PAY-1",
        "set-place",
        "chunks",
        "places that do not fit, and a damaged chunk of rank 0",
        _shards(rank_shard(0, 3, PLACE, poke={8192: b"\0"})),
    ),
    *_case(
        "SET-5 PAY-1",
        "set-missing-rank",
        "chunks",
        "a damaged chunk of rank 0, and no file of rank 1",
        _without(TWO, base=_shards(rank_shard(0, 3, poke={8192: b"\0"}))),
    ),
    *_case(
        "SB-2 PAY-3",
        "bad-magic",
        "padding",
        "a byte of padding in rank 0, and a rank 1 that is no shard",
        _shards(rank_shard(0, 3, poke={8191: b"\1"})) | {TWO: bytes(8216)},
    ),
    *_case(
        "TEN-2 SEC-13",
        "unknown-dtype",
        "extension",
        "a damaged extension of rank 0, and an unknown dtype in rank 2",
        _shards(
            rank_shard(0, 3, extra={"a": (5, b"a")}, entries={"a": {"crc32c": 1}}),
            None,
            rank_shard(2, 3, manifest=UNKNOWN_DTYPE),
        ),
    ),
    *_case(
        "PAY-1 PAY-3",
        "chunk-checksum",
        "next-rank",
        "a damaged chunk of rank 0, and a byte of padding in rank 1",
        _shards(rank_shard(0, 3, poke={8192: b"\0"}), rank_shard(1, 3, poke={8191: b"\1"})),
    ),
]
