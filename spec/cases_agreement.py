"""The vectors of an index's checksum and features, and of what the shards of a set agree on."""

from __future__ import annotations

import json
import zlib
from typing import Any

from vector_builder import Object, crc32c, text
from vector_case import Case, Folder, Variants, build, invalid, rank_shard, ranks, sealed, valid

INDEX = "snapshot.json"
SET = ranks(rank_shard(0), rank_shard(1))
RAW = build(SET[INDEX])
SAID: Object = json.loads(RAW)
MEMBER = b'"crc32c":"'
AT = RAW.index(MEMBER) + len(MEMBER)
DIGITS = RAW[AT : AT + 8]
UNSEALED = RAW.replace(DIGITS, b"0" * 8)


def _indexed(raw: bytes) -> Folder:
    return SET | {INDEX: raw}


def _digits(digits: bytes) -> Folder:
    return _indexed(RAW[:AT] + digits + RAW[AT + 8 :])


def _crc(crc: int) -> Folder:
    return _digits(b"%08x" % crc)


def _written(member: bytes) -> Folder:
    """Write the member another way, with digits that are right for that."""
    return _indexed(_resealed(UNSEALED.replace(b'"crc32c":"00000000"', member)))


def _resealed(raw: bytes) -> bytes:
    return raw.replace(b"00000000", b"%08x" % crc32c(raw), 1)


def _features(*names: str) -> Folder:
    return _indexed(sealed(text(SAID | {"required_features": list(names)})))


NESTED = b'"a":{"crc32c":"00000000"}'
WRONG_CHECKSUM: Variants = {
    "missing": ("no member crc32c", _written(b'"a":0')),
    "wrong": ("a digit that is wrong", _crc(int(DIGITS, 16) ^ 1)),
    "zeros": ("zeros", _indexed(UNSEALED)),
    "byte-order": (
        "the bytes of the number reversed",
        _digits(bytes.fromhex(DIGITS.decode())[::-1].hex().encode()),
    ),
    "crc32": ("the CRC-32 of zip", _crc(zlib.crc32(UNSEALED))),
    "without-digits": ("computed without the digits", _crc(crc32c(RAW[:AT] + RAW[AT + 8 :]))),
    "empty-digits": (
        "computed with spaces for digits",
        _crc(crc32c(RAW[:AT] + b" " * 8 + RAW[AT + 8 :])),
    ),
    "upper": ("digits in upper case", _digits(DIGITS.upper())),
    "short": ("seven digits", _written(b'"crc32c":"0000000"')),
    "long": ("nine digits", _written(b'"crc32c":"000000000"')),
    "number": ("a number", _written(b'"crc32c":0')),
    "null": ("null", _written(b'"crc32c":null')),
    "space-before": ("a space before the colon", _written(b'"crc32c" :"00000000"')),
    "space-after": ("a space after the colon", _written(b'"crc32c": "00000000"')),
    "escaped-name": (
        "a name that is written with an escape",
        _written(b'"\\u0063rc32c":"00000000"'),
    ),
    "escaped-digit": (
        "a digit that is written with an escape",
        _indexed(UNSEALED.replace(b"00000000", b"\\u00300000000")),
    ),
    "upper-name": ("a name in upper case", _written(b'"CRC32C":"00000000"')),
    "nested": ("a member of another member", _written(NESTED)),
    "nested-other": (
        "a right one in another member, and other digits in its own place",
        _written(NESTED + b',"crc32c" :"00000001"'),
    ),
    "twice": ("one more in another member", _written(b'"crc32c":"00000000",' + NESTED)),
    "twice-in-name": (
        "its ten bytes once more, in a name that ends with them",
        _written(b'"crc32c":"00000000","a\\"crc32c":""'),
    ),
    "space": ("a space after the object, added later", _indexed(RAW + b" ")),
    "line-end": ("a line end before the object, added later", _indexed(b"\n" + RAW)),
    "member": ("a member added later", _indexed(RAW[:-1] + b',"a":1}')),
    "size": (
        "a digit of a size changed later",
        _indexed(RAW.replace(b'"nbytes":8', b'"nbytes":9', 1)),
    ),
    "order": (
        "two members exchanged later",
        _indexed(RAW.replace(b'"major":1,"minor":0', b'"minor":0,"major":1')),
    ),
}
assert DIGITS.upper() != DIGITS

FEATURES: Variants = {
    "one": ("an unknown feature", _features("encryption")),
    "empty": ("a feature that is called nothing", _features("")),
    "two": ("two unknown features", _features("a", "b")),
}


def _kinds(*kinds: str) -> Folder:
    return ranks(*(rank_shard(i, len(kinds), kind=kind) for i, kind in enumerate(kinds)))


KINDS: Variants = {
    "second": ("a kind of its own in rank 1", _kinds("weights", "kv")),
    "last": ("a kind of its own in rank 2", _kinds("kv", "kv", "weights")),
    "case": ("kinds that differ in case", _kinds("weights", "Weights")),
    "normalization": (
        "kinds that are equal after normalization",
        _kinds("caf\u00e9", "cafe\u0301"),
    ),
}


def _places(*places: Object) -> Folder:
    return ranks(*(rank_shard(i, len(places), each) for i, each in enumerate(places)))


def _axes(**axes: tuple[int, int]) -> dict[str, Any]:
    return {name: {"rank": rank, "size": size} for name, (rank, size) in axes.items()}


def _tp(*at: int, size: int = 2) -> Folder:
    return _places(*(_axes(tp=(rank, size)) for rank in at))


def _grid(*pairs: tuple[int, int]) -> Folder:
    return _places(*(_axes(tp=(tp, 2), pp=(pp, 2)) for tp, pp in pairs))


PLACES: Variants = {
    "tp-sizes": ("sizes of tp that differ", _places(_axes(tp=(0, 2)), _axes(tp=(1, 3)))),
    "tp-once": ("tp in rank 0 alone", _places(_axes(tp=(0, 1)), {})),
    "tp-last": ("tp of size 1 in rank 1 alone", _places({}, _axes(tp=(0, 1)))),
    "tp-twice": ("rank 0 in tp twice", _tp(0, 0)),
    "tp-many": ("tp of 3 in two ranks", _tp(0, 1, size=3)),
    "tp-part": ("tp of 2 in three ranks", _tp(0, 1, 0)),
    "tp-uneven": ("tp ranks 0, 0, 0 and 1 in four ranks", _tp(0, 0, 0, 1)),
    "pp-sizes": ("sizes of pp that differ", _places(_axes(pp=(0, 2)), _axes(pp=(1, 4)))),
    "pp-twice": ("rank 1 in pp twice", _places(_axes(pp=(1, 2)), _axes(pp=(1, 2)))),
    "pp-once": ("pp in rank 1 alone", _places({}, _axes(pp=(0, 1)))),
    "ep-sizes": ("sizes of ep that differ", _places(_axes(ep=(0, 2)), _axes(ep=(1, 3)))),
    "ep-once": ("ep in rank 0 alone", _places(_axes(ep=(0, 2)), {})),
    "product": (
        "tp of 2 and pp of 2 in two ranks",
        _places(_axes(tp=(0, 2), pp=(0, 2)), _axes(tp=(1, 2), pp=(1, 2))),
    ),
    "pair-twice": ("a pair of tp and pp ranks twice", _grid((0, 0), (1, 0), (0, 1), (0, 1))),
    "diagonal": ("two of four pairs, each twice", _grid((0, 0), (1, 1), (0, 0), (1, 1))),
    "one-rank": ("tp of 2 in a set of one rank", _tp(0)),
}

VALID = [
    valid(
        "set-places",
        "SET-13",
        "tp of 2 and pp of 2, in an order of their own",
        _grid((1, 1), (0, 0), (0, 1), (1, 0)),
    ),
    valid(
        "set-places-repeated", "SET-13", "tp of 2 in four ranks, every place twice", _tp(0, 0, 1, 1)
    ),
    valid(
        "set-places-expert",
        "SET-13",
        "ep of 8 in two ranks, both at one place, and tp and pp of 1",
        _places(*[_axes(tp=(0, 1), pp=(0, 1), ep=(5, 8))] * 2),
    ),
    valid(
        "set-places-unknown",
        "SET-13 MAN-3",
        "an unknown parallelism, which counts for nothing",
        _places({"dp": {"rank": 0, "size": 3}}, {"dp": None}),
    ),
    valid("set-kind", "SET-12 MAN-4", "two shards of a kind that nobody knows", _kinds("x", "x")),
    valid(
        "set-members",
        "SET-2 SET-11",
        "an empty required_features and metadata that has what the index has",
        _indexed(
            sealed(text(SAID | {"required_features": [], "metadata": {"ranks": 0, "major": 2}}))
        ),
    ),
    valid(
        "set-checksum-last",
        "SET-10",
        "the checksum as the last member of a spaced text",
        _indexed(
            sealed(
                json.dumps({k: v for k, v in SAID.items() if k != "crc32c"}, indent=2).encode()[:-1]
                + b' ,\n "crc32c":"00000000"\t}\n'
            )
        ),
    ),
]

CASES: list[Case] = [
    *VALID,
    *invalid("SET-10", "set-checksum", WRONG_CHECKSUM),
    *invalid("SET-11", "set-unknown-feature", FEATURES),
    *invalid("SET-12", "set-kind", KINDS),
    *invalid("SET-13", "set-place", PLACES),
]
