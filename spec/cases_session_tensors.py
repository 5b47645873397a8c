"""The vectors of sessions that do not fit their tensors or ranks, and of the order of checks."""

from __future__ import annotations

from typing import Any

from session_case import (
    FULL,
    MEDIA,
    REMOVED,
    SALT,
    SessionCase,
    changed,
    encoded,
    group,
    hashes,
    invalid,
    layer,
    session,
    set_of,
    shard,
    tensors_of,
    token_ids,
)
from vector_builder import File, Object, tensor
from vector_case import Folder, ranks

TENSORS = tensors_of(session())
LONG = {
    "token_ids": encoded(token_ids(48)),
    "hashes": hashes(3),
    "groups": [group("a.0", "a.1", "b.0", blocks=3)],
}


def _shaped(name: str, *shape: int, stride: tuple[int, ...] | None = None) -> File:
    """Make the plain file with another shape of a tensor, all in storages of 4096 bytes."""
    found = TENSORS[name]
    other = tensor(found["dtype"], shape, stride, found["storage"])
    return shard(session(), tensors=TENSORS | {name: other}, storages=[4096] * 3)


def _strided(*stride: int) -> File:
    return _shaped("a.0", 2, 1, 16, 8, stride=stride)


def _named(**names: str) -> File:
    return shard(
        session(), tensors={names.get(name[0], name): each for name, each in TENSORS.items()}
    )


def _stored(name: str, **members: int) -> File:
    found = TENSORS | {name: TENSORS[name] | members}
    return shard(session(), tensors=found, storages=[4096] * 3)


def _second(*changes: tuple[str, Any]) -> Folder:
    """Make a set of two ranks, the second of which says something else."""
    return set_of(FULL, changed(*changes, base=FULL))


def _third(*changes: tuple[str, Any]) -> Folder:
    return set_of(session(), session(), changed(*changes))


def _rank(said: Object | None, rank: int, size: int = 2, **file: Any) -> File:
    metadata = {} if said is None else {"session": said}
    return shard(said, metadata=metadata, members={"shard": {"rank": rank, "size": size}}, **file)


CASES: list[SessionCase] = [
    *invalid(
        "KV-18",
        "session-tensors",
        {
            "missing": (
                "a layer without a tensor",
                shard(session(), tensors={name: TENSORS[name] for name in ("a.0", "a.1")}),
            ),
            "none": ("no tensors", shard(session(), tensors={})),
            "more": (
                "a tensor that is no layer",
                shard(session(), tensors=TENSORS | {"c": tensor("uint8", (4,), storage=2)}),
            ),
            "more-empty": (
                "an empty tensor that is no layer",
                shard(
                    session(), tensors=TENSORS | {"token_ids": tensor("uint32", (0,), storage=0)}
                ),
            ),
            "other": ("a tensor of another name", _named(b="c.0")),
            "prefix": ("a tensor called like the layer, and a suffix", _named(b="b.0.kv")),
        },
    ),
    *invalid(
        "KV-19",
        "session-tensor-shape",
        {
            "rows-fewer": ("one block of two", _shaped("a.0", 1, 1, 16, 8)),
            "rows-more": ("three blocks of two", _shaped("a.0", 3, 1, 16, 8)),
            "rows-window": ("all blocks of a layer that stores one", _shaped("b.0", 2, 1, 16, 8)),
            "sizes": ("another size in a row", _shaped("a.1", 2, 1, 16, 4)),
            "swapped": ("a row's sizes in another order", _shaped("a.1", 2, 1, 8, 16)),
            "fewer": ("a dimension less", _shaped("a.0", 2, 16, 8)),
            "more": ("a dimension more", _shaped("a.0", 2, 1, 16, 8, 1)),
            "scalar": ("no dimensions", _shaped("a.0")),
            "flat": ("all elements in one dimension", _shaped("a.0", 256)),
            "order": (
                "the sizes of the layer as they are, not in its order",
                shard(changed(("layers/a.0/order", [0, 2, 1, 3]))),
            ),
            "null-inside": (
                "rows where null stands in the shape",
                shard(
                    session(
                        groups=[group("a")],
                        layers={"a": layer(shape=[2, None, 8], order=[0, 1, 2])},
                    ),
                    tensors={"a": tensor("float16", (2, 3, 8))},
                    storages=[4096],
                ),
            ),
            "rows-per-block": (
                "one row a block, where two are said",
                shard(changed(("layers/a.0/rows_per_block", 2))),
            ),
            "tokens": ("tensors of two blocks in a session of three", shard(session(**LONG))),
        },
    ),
    *invalid(
        "KV-20",
        "session-tensor-stride",
        {
            "transposed": ("a tensor that is transposed in memory", _strided(128, 128, 1, 16)),
            "gaps": ("gaps between blocks", _strided(256, 128, 8, 1)),
            "gaps-inside": ("gaps between elements", _strided(256, 256, 16, 2)),
            "expanded": ("one block for all", _strided(0, 128, 8, 1)),
            "overlap": ("blocks that overlap", _strided(64, 128, 8, 1)),
            "last": (
                "gaps in the last layer",
                _shaped("b.0", 1, 1, 16, 8, stride=(128, 128, 9, 1)),
            ),
        },
    ),
    *invalid(
        "KV-21",
        "session-storage",
        {
            "tied": ("two layers with the same bytes", _stored("a.1", storage=0)),
            "apart": ("two layers apart in one storage", _stored("b.0", storage=0, offset=2048)),
            "overlap": ("two layers that overlap", _stored("b.0", storage=1, offset=128)),
        },
    ),
    *invalid(
        "KV-22",
        "session-ranks",
        {
            "token-ids": (
                "one other token in rank 1",
                _second(("token_ids", encoded(token_ids()[:-1] + b"\1"))),
            ),
            "hashes-values": ("other hashes", _second(("hashes/values", encoded(bytes(64))))),
            "hashes-seed": ("another seed", _second(("hashes/seed", "00" * 32))),
            "hashes-algorithm": ("another algorithm", _second(("hashes/algorithm", "sha256_cbor"))),
            "hashes-block": (
                "other blocks of hashes",
                _second(("hashes", hashes(1, 64, algorithm="sha512", block_tokens=32))),
            ),
            "adapter": ("no adapter in rank 1", _second(("adapter", None))),
            "adapter-name": ("another name of the adapter", _second(("adapter/name", "bob"))),
            "adapter-content": ("another adapter", _second(("adapter/sha256", "00" * 32))),
            "salt": ("no salt in rank 1", _second(("salt_sha256", None))),
            "salt-other": ("another salt", _second(("salt_sha256", "00" * 32))),
            "media": ("one of two media in rank 1", _second(("media", MEDIA[:1]))),
            "media-identifier": ("other media", _second(("media/0/identifier", "cow"))),
            "media-offset": ("media elsewhere", _second(("media/0/offset", 4))),
            "media-length": ("longer media", _second(("media/0/length", 10))),
            "groups": (
                "a group more, without layers",
                _third(("groups", [*session()["groups"], group()])),
            ),
            "groups-order": (
                "groups in another order",
                _third(("groups", session()["groups"][::-1])),
            ),
            "groups-window": ("another window", _third(("groups/1/window", 13))),
            "groups-blocks": (
                "more blocks of the window",
                _third(("groups/1/first_block", 0), ("groups/1/blocks", 2)),
            ),
            "groups-kind": (
                "full attention in place of a window",
                _third(("groups/1", group("b.0"))),
            ),
            "groups-block-tokens": (
                "blocks of another size",
                _third(("groups/0/block_tokens", 8), ("groups/0/blocks", 4)),
            ),
        },
    ),
    *invalid(
        "KV-1 KV-2",
        "session-missing",
        {
            "before-version": (
                "another kind, and major is 2",
                shard(session(major=2), members={"kind": "weights"}),
            ),
            "in-set": (
                "the second rank says nothing of a session",
                ranks(_rank(session(), 0), _rank(None, 1)),
            ),
        },
    ),
    *invalid(
        "KV-2 KV-5 KV-8",
        "session-version",
        {
            "before-members": (
                "major is 2, the fingerprint is a word, and no groups are there",
                shard(changed(("major", 2), ("fingerprint", "x"), ("groups", REMOVED))),
            ),
        },
    ),
    *invalid(
        "KV-5 KV-2",
        "session-missing-member",
        {
            "before-values": (
                "no media, and a group of an unknown kind",
                shard(changed(("media", REMOVED), ("groups/0/kind", "x"))),
            ),
            "major-before": (
                "no major, and media of another type",
                shard(changed(("major", REMOVED), ("media", 1))),
            ),
        },
    ),
    *invalid(
        "KV-6 KV-2",
        "session-member-type",
        {
            "before-values": (
                "a window that is true, and no token",
                shard(changed(("groups/1/window", True), ("token_ids", ""))),
            ),
            "major-before": ("major is a string, and nothing else is there", shard({"major": "1"})),
        },
    ),
    *invalid(
        "KV-8 KV-18",
        "session-digits",
        {
            "before-tensors": (
                "a fingerprint in upper case, and no tensors",
                shard(session(fingerprint="A" * 64), tensors={}),
            ),
            "before-tokens": (
                "a salt in upper case, and no token",
                shard(session(salt_sha256="A" * 64, token_ids="")),
            ),
            "before-values": (
                "an odd seed, and media out of order",
                shard(changed(("hashes/seed", "a"), ("media", MEDIA[::-1]))),
            ),
        },
    ),
    *invalid(
        "KV-17 KV-18",
        "session-media",
        {
            "before-tensors": (
                "media of no length, and no tensors",
                shard(session(media=[MEDIA[0] | {"length": 0}]), tensors={}),
            ),
        },
    ),
    *invalid(
        "KV-18 KV-19",
        "session-tensors",
        {
            "before-shape": (
                "a tensor too many, and another of another shape",
                shard(
                    session(),
                    tensors=TENSORS | {"a.0": tensor("uint8", (2,)), "z": tensor("uint8", (2,))},
                ),
            ),
        },
    ),
    *invalid(
        "KV-19 KV-20",
        "session-tensor-shape",
        {
            "before-stride": (
                "another shape, and gaps",
                _shaped("a.0", 2, 1, 16, 4, stride=(128, 64, 4, 1)),
            ),
        },
    ),
    *invalid(
        "KV-21 KV-22",
        "session-storage",
        {
            "before-ranks": (
                "two layers in one storage of rank 1, and another salt",
                ranks(
                    _rank(session(), 0),
                    _rank(
                        session(salt_sha256=SALT),
                        1,
                        storages=[4096] * 3,
                        tensors=TENSORS | {"a.1": TENSORS["a.0"]},
                    ),
                ),
            ),
        },
    ),
    *invalid(
        "KV-9 KV-22",
        "session-tokens",
        {
            "before-ranks": (
                "rank 1 of three has another salt, and rank 2 no tokens",
                ranks(
                    _rank(session(), 0, 3),
                    _rank(session(salt_sha256=SALT), 1, 3),
                    _rank(session(token_ids=""), 2, 3),
                ),
            ),
            "in-set": (
                "rank 1 has no tokens",
                ranks(_rank(session(), 0), _rank(session(token_ids=""), 1)),
            ),
        },
    ),
    *invalid(
        "PAY-1 KV-1",
        "chunk-checksum",
        {
            "before-session": ("a damaged chunk, and no session", shard(None, digests=bytes(4))),
        },
    ),
    *invalid(
        "MAN-1 KV-1",
        "missing-member",
        {
            "before-session": (
                "a manifest without shard, and no session",
                shard(None, members={"shard": REMOVED}),
            ),
        },
    ),
]
