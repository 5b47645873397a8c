"""The vectors of sessions whose members contradict each other."""

from __future__ import annotations

from typing import Any

from session_case import (
    FULL,
    MEDIA,
    SessionCase,
    changed,
    encoded,
    group,
    hashes,
    invalid,
    layer,
    session,
    shard,
    token_ids,
)
from vector_builder import File, Object


def _but(*changes: tuple[str, Any]) -> File:
    """Make the file of a session with everything, but for changes; its tensors are not changed."""
    return shard(changed(*changes, base=FULL))


def _groups(*groups: Object) -> File:
    return _but(("groups", list(groups)))


A, B = FULL["groups"]
CASES: list[SessionCase] = [
    *invalid(
        "KV-9",
        "session-tokens",
        {
            "none": ("no token", _but(("token_ids", ""))),
            "half": (
                "two bytes after the last token",
                _but(("token_ids", encoded(token_ids() + b"\0\0"))),
            ),
            "byte": (
                "one byte less than 32 tokens",
                _but(("token_ids", encoded(token_ids()[:-1]))),
            ),
            "one-byte": ("one byte alone", _but(("token_ids", encoded(b"\1")))),
        },
    ),
    *invalid(
        "KV-10",
        "session-block-tokens",
        {
            "tokens": ("31 tokens in blocks of 16", _but(("token_ids", encoded(token_ids(31))))),
            "hashes": ("hashes of 12 tokens", _but(("hashes/block_tokens", 12))),
            "hashes-0": ("hashes of no tokens", _but(("hashes/block_tokens", 0))),
            "hashes-negative": ("hashes of -16 tokens", _but(("hashes/block_tokens", -16))),
            "hashes-longer": ("hashes of 64 tokens", _but(("hashes/block_tokens", 64))),
            "group": (
                "blocks of 12 tokens in the first group",
                _but(("groups/0/block_tokens", 12)),
            ),
            "group-0": ("blocks of no tokens", _but(("groups/0/block_tokens", 0))),
            "group-negative": ("blocks of -16 tokens", _but(("groups/0/block_tokens", -16))),
            "group-longer": ("blocks of 64 tokens", _but(("groups/0/block_tokens", 64))),
            "group-second": (
                "blocks of 12 tokens in the second group",
                _but(("groups/1/block_tokens", 12)),
            ),
        },
    ),
    *invalid(
        "KV-11",
        "session-hashes",
        {
            "none": ("no hashes", _but(("hashes/values", ""))),
            "few": ("one hash for two blocks", _but(("hashes", hashes(1)))),
            "many": ("three hashes for two blocks", _but(("hashes", hashes(3)))),
            "uneven": ("63 bytes for two hashes", _but(("hashes/values", encoded(bytes(63))))),
            "uneven-unknown": (
                "17 bytes for two hashes of an unknown algorithm",
                _but(("hashes", hashes(algorithm="x", values=encoded(bytes(17))))),
            ),
            "none-unknown": (
                "no hashes of an unknown algorithm",
                _but(("hashes", hashes(0, algorithm="x"))),
            ),
            "width": ("hashes of 16 bytes by sha256", _but(("hashes", hashes(2, 16)))),
            "width-cbor": (
                "hashes of 64 bytes by sha256_cbor",
                _but(("hashes", hashes(2, 64, algorithm="sha256_cbor"))),
            ),
            "block": (
                "as many hashes as there were in blocks of 16, in blocks of 32",
                _but(("hashes/block_tokens", 32)),
            ),
            "block-short": ("two hashes in blocks of 8", _but(("hashes/block_tokens", 8))),
        },
    ),
    *invalid(
        "KV-12",
        "session-group",
        {
            "kind": ("an unknown kind", _groups(A | {"kind": "chunked"}, B)),
            "kind-case": ("kind is Full", _groups(A | {"kind": "Full"}, B)),
            "kind-window": (
                "an unknown kind with a window",
                _groups(A, B | {"kind": "sliding_window"}),
            ),
            "kind-empty": ("an empty kind", _groups(A | {"kind": ""}, B)),
            "full-window": ("full attention with a window", _groups(A | {"window": 4096}, B)),
            "full-first": (
                "full attention that begins with the second block",
                _groups(A, B | {"kind": "full", "window": None}),
            ),
            "kind-state": ("kind is State", _groups(A, B | {"kind": "State", "window": None})),
            "state-window": ("a state with a window", _groups(A, B | {"kind": "state"})),
            "window-null": ("a sliding window of no size", _groups(A, B | {"window": None})),
            "window-0": ("a window of no tokens", _groups(A, B | {"window": 0})),
            "window-negative": ("a window of -1 tokens", _groups(A, B | {"window": -1})),
        },
    ),
    *invalid(
        "KV-13",
        "session-blocks",
        {
            "none": ("no blocks", _groups(A | {"blocks": 0}, B)),
            "none-window": (
                "no blocks behind the last one",
                _groups(A, B | {"first_block": 2, "blocks": 0, "window": 1}),
            ),
            "few": ("all blocks but the last", _groups(A | {"blocks": 1}, B)),
            "many": ("a block behind the last token", _groups(A | {"blocks": 3}, B)),
            "first": (
                "the last block alone, said to be the first",
                _groups(A, B | {"first_block": 0}),
            ),
            "first-far": ("blocks behind the session", _groups(A, B | {"first_block": 2})),
            "first-negative": (
                "a block before the first",
                _groups(A, B | {"first_block": -1, "blocks": 3}),
            ),
            "negative": (
                "three blocks less one",
                _groups(A, B | {"first_block": 3, "blocks": -1, "window": 1}),
            ),
        },
    ),
    *invalid(
        "KV-14",
        "session-window",
        {
            "one": (
                "a window that needs one token more than is stored",
                _groups(A, B | {"window": 18}),
            ),
            "all": ("a window that needs all tokens", _groups(A, B | {"window": 33})),
            "beyond": (
                "a window that is longer than the session",
                _groups(A, B | {"window": 2**53 - 1}),
            ),
        },
    ),
    *invalid(
        "KV-15",
        "session-layers",
        {
            "none": (
                "no layers, groups and tensors",
                shard(changed(("groups", []), ("layers", {}), base=FULL), tensors={}, storages=[]),
            ),
            "none-of-groups": (
                "two groups without layers",
                shard(
                    changed(
                        ("groups/0/layers", []), ("groups/1/layers", []), ("layers", {}), base=FULL
                    ),
                    tensors={},
                ),
            ),
            "no-groups": ("layers, but no groups", _groups()),
            "no-group": ("a layer that is in no group", _groups(A | {"layers": ["a.0"]}, B)),
            "two-groups": (
                "a layer in two groups",
                _groups(A | {"layers": ["a.0", "a.1", "b.0"]}, B),
            ),
            "twice": (
                "a layer twice in one group",
                _groups(A | {"layers": ["a.0", "a.1", "a.1"]}, B),
            ),
            "unknown": (
                "a group with a layer that is none",
                _groups(A | {"layers": ["a.0", "a.1", "c"]}, B),
            ),
            "case": ("a layer in another case", _groups(A | {"layers": ["a.0", "A.1"]}, B)),
            "normalized": (
                "a name in another form of Unicode",
                shard(session(groups=[group("\u00e4")], layers={"a\u0308": layer()}), tensors={}),
            ),
        },
    ),
    *invalid(
        "KV-16",
        "session-layer",
        {
            "shape-empty": (
                "no dimensions",
                _but(("layers/a.0/shape", []), ("layers/a.0/order", [])),
            ),
            "shape-whole": ("no null in the shape", _but(("layers/a.0/shape", [2, 1, 16, 8]))),
            "shape-nulls": (
                "two nulls in the shape",
                _but(("layers/a.0/shape", [None, None, 16, 8])),
            ),
            "shape-0": ("a size of 0", _but(("layers/a.0/shape", [None, 0, 16, 8]))),
            "shape-negative": ("a size of -1", _but(("layers/a.0/shape", [None, -1, 16, 8]))),
            "shape-second": (
                "a size of 0 in the last layer",
                _but(("layers/b.0/shape", [None, 1, 16, 0])),
            ),
            "order-empty": ("an empty order", _but(("layers/a.0/order", []))),
            "order-short": ("an order of three dimensions", _but(("layers/a.0/order", [0, 1, 2]))),
            "order-long": (
                "an order of five dimensions",
                _but(("layers/a.0/order", [0, 1, 2, 3, 4])),
            ),
            "order-twice": ("a dimension twice", _but(("layers/a.0/order", [0, 1, 2, 2]))),
            "order-twice-long": (
                "every dimension, one of them twice",
                _but(("layers/a.0/order", [0, 1, 2, 3, 3])),
            ),
            "order-1": ("dimensions counted from 1", _but(("layers/a.0/order", [1, 2, 3, 4]))),
            "order-negative": (
                "a dimension counted from the end",
                _but(("layers/a.0/order", [0, 1, 2, -1])),
            ),
            "rows-0": ("no rows a block", _but(("layers/a.0/rows_per_block", 0))),
            "rows-negative": ("-1 rows a block", _but(("layers/a.0/rows_per_block", -1))),
        },
    ),
    *invalid(
        "KV-17",
        "session-media",
        {
            "negative": ("media before the first token", _but(("media/0/offset", -1))),
            "end": ("media behind the last token", _but(("media/1/offset", 32))),
            "far": ("media far behind the last token", _but(("media/1/offset", 2**53 - 1))),
            "order": ("media out of order", _but(("media", MEDIA[::-1]))),
            "order-last": (
                "the last of three media out of order",
                _but(("media", [*MEDIA, MEDIA[0]])),
            ),
            "length-0": ("media of no length", _but(("media/0/length", 0))),
            "length-negative": ("media of length -1", _but(("media/1/length", -1))),
        },
    ),
]
