"""The invalid vectors of folders of several ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from uuid import UUID

from vector_builder import File, Object, text
from vector_case import (
    Case,
    Content,
    Folder,
    Variants,
    build,
    invalid,
    plain,
    rank_shard,
    ranks,
    removed,
    sealed,
)

ONE, TWO = "rank-00000-of-00002.thaw", "rank-00001-of-00002.thaw"
INDEX = "snapshot.json"
SET = ranks(rank_shard(0), rank_shard(1))
SAID: Object = json.loads(build(SET[INDEX]))


def _indexed(index: Object | bytes) -> Folder:
    data = index if isinstance(index, bytes) else text(index)
    return SET | {INDEX: sealed(data)}


def _without(name: str, **more: File | bytes) -> Folder:
    return {each: data for each, data in SET.items() if each != name} | more


def _top(**members: Any) -> Folder:
    return _indexed(SAID | members)


def _rank(index: int, **members: Any) -> Folder:
    said = deepcopy(SAID)
    said["ranks"][index] |= members
    return _indexed(said)


def _lacking(*path: str | int) -> Folder:
    said = deepcopy(SAID)
    parent: Any = said
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return _indexed(said)


def _raw(edit: Callable[[bytes], bytes]) -> Folder:
    return _indexed(edit(text(SAID)))


def _replaced(old: bytes, new: bytes) -> Folder:
    assert old in text(SAID), old
    return _raw(lambda raw: raw.replace(old, new, 1))


def _second(shard: File | bytes) -> Folder:
    return ranks(rank_shard(0), shard)


def _file(index: int, name: str, **more: File | bytes) -> tuple[str, Content]:
    return f"the file name {ascii(name)[:60]} for rank {index}", _rank(index, file=name) | more


MISSING_INDEX: Variants = {
    "shards": ("two shards and no index", _without(INDEX)),
    "stranger": ("a folder of something else", {"README": b"nothing here\n"}),
    "temporary": (
        "an index under another name",
        {("snapshot.json.tmp" if name == INDEX else name): data for name, data in SET.items()},
    ),
    "folder": (
        "a folder in the place of the index",
        _without(INDEX, **{f"{INDEX}/{INDEX}": SET[INDEX]}),
    ),
}

BAD_INDEX: Variants = {
    "empty": ("an empty file", _indexed(b"")),
    "white-space": ("white space", _indexed(b"\n")),
    "not-json": ("text that is not JSON", _indexed(b"major: 1\n")),
    "array": ("an array", _indexed(b"[]")),
    "bom": ("a byte order mark", _raw(lambda raw: b"\xef\xbb\xbf" + raw)),
    "encoding": ("a byte that is not UTF-8", _raw(lambda raw: raw[:-1] + b',"x":"\xff"}')),
    "truncated": ("the last brace missing", _raw(lambda raw: raw[:-1])),
    "trailing-comma": ("a trailing comma", _raw(lambda raw: raw[:-1] + b",}")),
    "nul-after": ("a NUL after the object", _raw(lambda raw: raw + b"\0")),
    "nan": ("NaN in an unknown member", _raw(lambda raw: raw[:-1] + b',"x":NaN}')),
    "duplicate": ("major twice", _raw(lambda raw: raw[:-1] + b',"major":1}')),
    "duplicate-escaped": ("a file twice", _replaced(b'{"file"', b'{"\\u0066ile":"x","file"')),
    "fraction": ("a fraction in an unknown member", _raw(lambda raw: raw[:-1] + b',"x":1.0}')),
    "fraction-major": ("major 1.0", _replaced(b'"major":1', b'"major":1.0')),
    "great": ("2^53 in an unknown member", _top(x=2**53)),
    "digits": (
        "a number of 5000 digits",
        _raw(lambda raw: raw[:-1] + b',"x":' + b"9" * 5000 + b"}"),
    ),
    "depth": (
        "arrays to level 33",
        _raw(lambda raw: raw[:-1] + b',"x":' + b"[" * 32 + b"]" * 32 + b"}"),
    ),
    "depth-20000": (
        "20000 arrays",
        _raw(lambda raw: raw[:-1] + b',"x":' + b"[" * 20000 + b"]" * 20000 + b"}"),
    ),
    "surrogate": (
        "a lone surrogate in an unknown member",
        _raw(lambda raw: raw[:-1] + rb',"x":"\ud800"}'),
    ),
    **{f"no-{name}": (f"no member {name}", _lacking(name)) for name in SAID if name != "crc32c"},
    **{
        f"no-{name}": (f"no member {name} of rank 1", _lacking("ranks", 1, name))
        for name in SAID["ranks"][0]
    },
    "major-string": ("major as a string", _top(major="1")),
    "major-boolean": ("major true", _top(major=True)),
    "minor-null": ("minor null", _top(minor=None)),
    "minor-boolean": ("minor false", _top(minor=False)),
    "id-number": ("a number as snapshot_id", _top(snapshot_id=0)),
    "id-null": ("null as snapshot_id", _top(snapshot_id=None)),
    "ranks-object": ("ranks as an object", _top(ranks={"0": SAID["ranks"][0]})),
    "ranks-null": ("ranks null", _top(ranks=None)),
    "ranks-number": ("ranks as a number", _top(ranks=2)),
    "ranks-empty": ("no ranks", _top(ranks=[])),
    "rank-null": ("null for a rank", _top(ranks=[SAID["ranks"][0], None])),
    "rank-string": ("a file name for a rank", _top(ranks=[ONE, TWO])),
    "rank-array": ("an array for a rank", _top(ranks=[[ONE, 1, "0" * 8], [TWO, 1, "0" * 8]])),
    "file-null": ("null as a file name", _rank(1, file=None)),
    "file-array": ("an array as a file name", _rank(1, file=[TWO])),
    "nbytes-string": ("nbytes as a string", _rank(0, nbytes=str(SAID["ranks"][0]["nbytes"]))),
    "nbytes-null": ("nbytes null", _rank(1, nbytes=None)),
    "nbytes-boolean": ("nbytes true", _rank(1, nbytes=True)),
    "digest-number": (
        "a root digest as a number",
        _rank(1, root_digest=int(SAID["ranks"][1]["root_digest"], 16)),
    ),
    "digest-null": ("a root digest of null", _rank(0, root_digest=None)),
    **{
        f"id-{name}": (f"a snapshot_id {what}", _top(snapshot_id=digits))
        for name, (what, digits) in {
            "upper": ("in upper case", SAID["snapshot_id"].upper()),
            "mixed": ("with one digit in upper case", SAID["snapshot_id"].replace("a0", "A0")),
            "short": ("of 31 digits", SAID["snapshot_id"][:-1]),
            "long": ("of 33 digits", SAID["snapshot_id"] + "0"),
            "empty": ("of no digits", ""),
            "letter": ("with a letter that is no digit", "g" + SAID["snapshot_id"][1:]),
            "dashes": ("with the dashes of a UUID", str(UUID(SAID["snapshot_id"]))),
            "prefix": ("that begins with 0x", "0x" + SAID["snapshot_id"][2:]),
            "space": ("with a space at its end", SAID["snapshot_id"][:-1] + " "),
            "line-end": ("with a line end at its end", SAID["snapshot_id"] + "\n"),
            "arabic": ("with an Arabic digit", SAID["snapshot_id"][:-1] + "\u0661"),
        }.items()
    },
    **{
        f"digest-{name}": (f"a root digest {what}", _rank(1, root_digest=digits))
        for name, (what, digits) in {
            "upper": ("in upper case", SAID["ranks"][1]["root_digest"].upper()),
            "short": ("of seven digits", SAID["ranks"][1]["root_digest"][:-1]),
            "long": ("of nine digits", SAID["ranks"][1]["root_digest"] + "0"),
            "long-first": ("with a zero before it", "0" + SAID["ranks"][1]["root_digest"]),
            "empty": ("of no digits", ""),
            "letter": ("with a letter that is no digit", "0000000g"),
            "prefix": ("that begins with 0x", "0x000000"),
            "sign": ("with a sign", "+" + SAID["ranks"][1]["root_digest"][1:]),
            "line-end": ("with a line end", SAID["ranks"][1]["root_digest"] + "\n"),
        }.items()
    },
    "features-object": ("required_features as an object", _top(required_features={})),
    "features-string": ("required_features as a string", _top(required_features="")),
    "features-null": ("required_features null", _top(required_features=None)),
    "feature-number": ("a number in required_features", _top(required_features=[1])),
    "feature-null": (
        "null behind a string in required_features",
        _top(required_features=["a", None]),
    ),
    "metadata-array": ("metadata as an array", _top(metadata=[])),
    "metadata-null": ("metadata null", _top(metadata=None)),
}
assert SAID["ranks"][1]["root_digest"].upper() != SAID["ranks"][1]["root_digest"]

FILE_NAMES: Variants = {
    "parent": _file(0, f"../{ONE}"),
    "current": _file(0, f"./{ONE}"),
    "absolute": _file(0, f"/tmp/{ONE}"),
    "folder": _file(0, f"more/{ONE}", **{f"more/{ONE}": SET[ONE]}),
    "backslash": _file(0, f"..\\{ONE}"),
    "trick": _file(1, "../x"),
    "passwd": _file(1, "/etc/passwd"),
    "empty": _file(1, ""),
    "dot": _file(1, "."),
    "index": _file(1, INDEX),
    "upper-case": _file(1, TWO.upper()),
    "nul": _file(1, f"{TWO}\0"),
    "line-end": _file(1, f"{TWO}\n"),
    "space": _file(1, f" {TWO}"),
    "slash": _file(1, f"{TWO}/"),
    "four-digits": _file(1, "rank-0001-of-0002.thaw"),
    "six-digits": _file(1, "rank-000001-of-000002.thaw"),
    "from-1": _file(1, "rank-00002-of-00002.thaw"),
    "other-size": _file(1, "rank-00001-of-00003.thaw", **{"rank-00001-of-00003.thaw": SET[TWO]}),
    "other-name": _file(1, "second.thaw", **{"second.thaw": SET[TWO]}),
    "digits-arabic": _file(1, "rank-0000\u0661-of-0000\u0662.thaw"),
    "twice": _file(1, ONE),
    "swapped": ("the elements of the ranks swapped", _top(ranks=SAID["ranks"][::-1])),
    "one-rank": ("one of two ranks in the index", _top(ranks=SAID["ranks"][:1])),
}

SIZES: Variants = {
    "less": ("nbytes one too small", _rank(0, nbytes=SAID["ranks"][0]["nbytes"] - 1)),
    "more": ("nbytes one too great", _rank(1, nbytes=SAID["ranks"][1]["nbytes"] + 1)),
    "zero": ("nbytes 0", _rank(1, nbytes=0)),
    "negative": ("nbytes -1", _rank(1, nbytes=-1)),
    "great": ("nbytes 2^53 - 1", _rank(0, nbytes=2**53 - 1)),
    "cut": ("a shard cut by one byte", SET | {TWO: build(SET[TWO])[:-1]}),
    "longer": ("a shard with one byte more", SET | {ONE: build(SET[ONE]) + b"\0"}),
    "empty": ("a shard of no bytes", SET | {TWO: b""}),
}

_DIGEST = SAID["ranks"][1]["root_digest"]
DIGESTS: Variants = {
    "wrong": (
        "a root digest that differs in a digit",
        _rank(1, root_digest=f"{int(_DIGEST, 16) ^ 1:08x}"),
    ),
    "first": ("a root digest of zeros for rank 0", _rank(0, root_digest="00000000")),
    "byte-order": (
        "the bytes of a root digest as they stand in the file",
        _rank(1, root_digest=bytes.fromhex(_DIGEST)[::-1].hex()),
    ),
    "other-rank": (
        "a shard of another snapshot with the same rank and size",
        SET | {TWO: rank_shard(1, head={"minor": 1})},
    ),
    "exchanged": (
        "the root digests of two ranks exchanged",
        _indexed(
            SAID
            | {
                "ranks": [
                    a | {"root_digest": b["root_digest"]}
                    for a, b in zip(SAID["ranks"], SAID["ranks"][::-1], strict=True)
                ]
            }
        ),
    ),
}

OTHER_ID = {"snapshot_id": bytes(16)}
IDS: Variants = {
    "index": ("another id in the index", _top(snapshot_id="0" * 31 + "1")),
    "reversed": (
        "the bytes of the id in the reverse order",
        _top(snapshot_id=bytes.fromhex(SAID["snapshot_id"])[::-1].hex()),
    ),
    "shard": ("another id in one shard", _second(rank_shard(1, head=OTHER_ID))),
    "first": ("another id in the first shard", ranks(rank_shard(0, head=OTHER_ID), rank_shard(1))),
}

PLACES: Variants = {
    "swapped": ("the shards of two ranks exchanged", ranks(rank_shard(1), rank_shard(0))),
    "twice": ("the shard of rank 0 twice", ranks(rank_shard(0), rank_shard(0))),
    "size": ("a shard of three ranks in a set of two", _second(rank_shard(1, 3))),
    "alone": ("a shard of one rank in a set of two", ranks(plain(), rank_shard(1))),
    "one-of-two": ("a shard of two ranks in a set of one", ranks(rank_shard(0))),
}


def _shard_case(rules: str, code: str, description: str, shard: File | bytes) -> list[Case]:
    return invalid(rules, code, {"in-set": (description, _second(shard))})


SHARDS = [
    *_shard_case("SB-2 SEAL-2", "bad-magic", "an unsealed shard", bytes(8216)),
    *_shard_case("SB-1", "truncated-superblock", "a shard of eight bytes", b"\x89THAW\r\n\x1a"),
    *_shard_case("SB-3", "foreign-magic", "a foreign shard", b"THAW" + bytes(5000)),
    *_shard_case("SB-4", "unknown-major-version", "major 2", rank_shard(1, head={"major": 2})),
    *_shard_case(
        "SB-6",
        "superblock-checksum",
        "a superblock with a wrong checksum, which is the one in the index",
        rank_shard(1, head={"superblock_crc32c": 1}),
    ),
    *_shard_case(
        "SB-10",
        "truncated-file",
        "a shard that claims another size than the index",
        rank_shard(1, head={"file_nbytes": 2**40}),
    ),
    *_shard_case(
        "SEC-11",
        "manifest-checksum",
        "a manifest with a wrong checksum",
        rank_shard(1, entries={"manifest": {"crc32c": 0}}),
    ),
    *_shard_case(
        "JSON-2", "json-syntax", "a manifest that is null", rank_shard(1, manifest=b"null")
    ),
    *_shard_case(
        "MAN-1",
        "missing-member",
        "a manifest without its place",
        removed("shard"),
    ),
    *_shard_case(
        "PAY-1 PAY-2",
        "chunk-checksum",
        "a chunk of the second rank changed",
        rank_shard(1, poke={8192: b"\0"}),
    ),
    *_shard_case(
        "PAY-3",
        "nonzero-padding",
        "a byte between sections of the second rank",
        rank_shard(1, poke={8191: b"\1"}),
    ),
]

CASES: list[Case] = [
    *invalid("SET-1 SEAL-3", "set-missing-index", MISSING_INDEX),
    *invalid("SET-2", "set-bad-index", BAD_INDEX),
    *invalid(
        "SET-3",
        "set-version",
        {
            "0": ("major 0", _top(major=0)),
            "2": ("major 2", _top(major=2)),
            "negative": ("major -1", _top(major=-1)),
            "2-names": (
                "major 2 with other file names",
                _indexed(
                    SAID | {"major": 2, "ranks": [each | {"file": "a"} for each in SAID["ranks"]]}
                ),
            ),
            "2-alone": ("major 2 and no other member", _indexed(b'{"major":2}')),
            "2-types": (
                "major 2 and members of other types",
                _top(major=2, minor="0", snapshot_id=1, ranks={}, required_features=1),
            ),
            "2-checksum": (
                "major 2 and a wrong checksum",
                SET | {INDEX: text(SAID | {"major": 2})},
            ),
        },
    ),
    *invalid("SET-4 CON-3", "set-file-name", FILE_NAMES),
    *invalid(
        "SET-5",
        "set-missing-rank",
        {
            "first": ("the file of rank 0 missing", _without(ONE)),
            "last": ("the file of rank 1 missing", _without(TWO)),
            "folder": (
                "a folder in the place of the file of rank 1",
                _without(TWO, **{f"{TWO}/{TWO}": SET[TWO]}),
            ),
        },
    ),
    *invalid("SET-6", "set-size", SIZES),
    *invalid("SET-7", "set-root-digest", DIGESTS),
    *invalid("SET-8", "set-snapshot-id", IDS),
    *invalid("SET-9", "set-rank", PLACES),
    *SHARDS,
]
