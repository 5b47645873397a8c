"""The vectors of sessions that every reader accepts."""

from __future__ import annotations

from session_case import (
    ADAPTER,
    MEDIA,
    SALT,
    WINDOW,
    SessionCase,
    changed,
    encoded,
    group,
    hashes,
    layer,
    session,
    set_of,
    shard,
    tensors_of,
    token_ids,
    valid,
    whole,
)
from vector_builder import Object

ONE = session(
    groups=[group("a.0", blocks=1)],
    layers={"a.0": layer()},
    token_ids=encoded(token_ids(16)),
    hashes=hashes(1),
)
PAIRED = layer(shape=[2, None, 8, 2, 4], order=[1, 0, 3, 2, 4], rows_per_block=2)
UNKNOWN = {"more": [{"a": None}], "Major": 2}


def _only(*groups: Object, **layers: Object) -> Object:
    return session(groups=list(groups), layers=layers)


def _windowed(window: int, first: int) -> Object:
    kept = WINDOW | {"window": window, "first_block": first, "blocks": 2 - first}
    return _only(group("a", **kept), a=layer())


def _state(first: int) -> Object:
    kept = {"kind": "state", "first_block": first, "blocks": 2 - first}
    parts = {
        "s.conv": layer(shape=[None, 12, 3], backend="GDN_ATTN"),
        "s.memory": layer(shape=[None, 2, 8, 4], order=[0, 1, 3, 2], backend="GDN_ATTN"),
    }
    parts["s.conv"]["order"] = [0, 2, 1]
    return _only(group("a"), group(*parts, **kept), a=layer(), **parts)


def _strided() -> Object:
    """Describe the plain tensors with a stride that says nothing: that of a size of 1."""
    found = tensors_of(session())
    return found | {"a.0": found["a.0"] | {"stride": [128, 9999, 8, 1]}}


def _placed() -> Object:
    found = tensors_of(session())
    return found | {"a.1": found["a.1"] | {"offset": 64}}


def _unknown() -> Object:
    said = changed(("adapter", ADAPTER | UNKNOWN), ("media", [each | UNKNOWN for each in MEDIA]))
    said["groups"] = [each | UNKNOWN for each in said["groups"]]
    said["layers"] = {name: each | UNKNOWN for name, each in said["layers"].items()}
    return said | {"hashes": said["hashes"] | UNKNOWN} | UNKNOWN


CASES: list[SessionCase] = [
    valid(
        "plain",
        "KV-1 KV-5 KV-6",
        "two layers of full attention, one with a window",
        whole(session()),
    ),
    valid("one-block", "KV-9 KV-13", "one layer, one block", whole(ONE)),
    valid(
        "one-token",
        "KV-9 KV-10",
        "one token, in a block of one token",
        whole(
            session(
                groups=[group("a", block_tokens=1, blocks=1)],
                layers={"a": layer(shape=[None, 1, 1, 8])},
                token_ids=encoded(token_ids(1)),
                hashes=hashes(1, block_tokens=1),
            )
        ),
    ),
    valid(
        "token-greatest",
        "KV-9",
        "tokens of all values that 32 bits have, from 0 up",
        whole(changed(("token_ids", encoded(bytes(64) + b"\xff" * 64)))),
    ),
    valid("minor", "KV-3", "a minor version of later", whole(session(minor=7))),
    valid("minor-negative", "KV-3", "a minor version that nobody has", whole(session(minor=-1))),
    valid("unknown-members", "KV-4", "unknown members in every object", whole(_unknown())),
    valid(
        "unknown-metadata",
        "KV-1 KV-4",
        "more beside the session",
        shard(
            None, metadata={"sessions": 1, "session": session(), "thaw": {"session": {"major": 2}}}
        ),
    ),
    valid("engine-empty", "KV-4", "an engine of which nothing is said", whole(session(engine={}))),
    valid(
        "engine-members",
        "KV-4",
        "an engine with members that are others elsewhere",
        whole(
            session(
                engine={"major": 2, "layers": None, "deep": [[{"": True}], -1], "name": "\u2603"}
            )
        ),
    ),
    valid(
        "base64-padding",
        "KV-7 KV-11",
        "hashes of 16 bytes: base64 with two marks at its end",
        whole(session(hashes=hashes(2, 16, algorithm="xxhash"))),
    ),
    valid(
        "base64-padding-one",
        "KV-7 KV-11",
        "one mark at its end",
        whole(session(hashes=hashes(2, 7, algorithm="unknown"))),
    ),
    valid(
        "base64-alphabet",
        "KV-7",
        "every character of base64",
        whole(session(hashes=hashes(2, values=encoded(bytes(range(192, 256)))))),
    ),
    valid("seed-short", "KV-8", "a seed of one byte", whole(session(hashes=hashes(seed="0f")))),
    valid("seed-long", "KV-8", "a seed of 40 bytes", whole(session(hashes=hashes(seed="ab" * 40)))),
    valid(
        "block-tokens-differ",
        "KV-10 KV-11",
        "hashes and groups with blocks of other sizes",
        whole(
            session(
                groups=[
                    group("a", block_tokens=8, blocks=4),
                    group("b", block_tokens=32, blocks=1),
                ],
                layers={"a": layer(shape=[None, 1, 8, 8]), "b": layer(shape=[None, 1, 32, 8])},
            )
        ),
    ),
    valid(
        "hash-width",
        "KV-11",
        "hashes of one byte, of an algorithm unknown here",
        whole(session(hashes=hashes(2, 1, algorithm=""))),
    ),
    valid(
        "hash-cbor",
        "KV-11",
        "hashes of sha256_cbor",
        whole(session(hashes=hashes(algorithm="sha256_cbor"))),
    ),
    valid(
        "window-1",
        "KV-12 KV-14",
        "a window of one token, which needs no token before",
        whole(_windowed(1, 1)),
    ),
    valid(
        "window-block",
        "KV-14",
        "a window that needs all of the last block and no more",
        whole(_windowed(17, 1)),
    ),
    valid(
        "window-all",
        "KV-14",
        "a window that needs all tokens but the first, and all stored",
        whole(_windowed(32, 0)),
    ),
    valid(
        "window-beyond",
        "KV-14",
        "a window that is longer than the session",
        whole(_windowed(4096, 0)),
    ),
    valid(
        "window-more",
        "KV-13 KV-14",
        "more blocks stored than the window needs",
        whole(_windowed(2, 0)),
    ),
    valid(
        "state",
        "KV-12 KV-13",
        "a state of two tensors, of which the last is stored",
        whole(_state(1)),
    ),
    valid(
        "state-all",
        "KV-12 KV-13",
        "a state behind every block",
        whole(_state(0)),
    ),
    valid(
        "group-empty",
        "KV-12 KV-15",
        "a group of whose layers this rank has none",
        whole(session(groups=[*session()["groups"], group()])),
    ),
    valid(
        "paired",
        "KV-16 KV-19",
        "keys and values side by side, two rows a block",
        whole(_only(group("a"), a=PAIRED)),
    ),
    valid(
        "rows-inside",
        "KV-16 KV-19",
        "a layout that is widest in another dimension than rows",
        whole(
            _only(
                group("a"),
                a=layer(shape=[2, None, 1, 16, 4], order=[0, 1, 2, 3, 4], rows_per_block=3),
            )
        ),
    ),
    valid(
        "turned",
        "KV-16 KV-19",
        "an order that is another one when it is turned round",
        whole(_only(group("a"), a=layer(shape=[3, None, 5, 4], order=[1, 2, 3, 0]))),
    ),
    valid(
        "latent",
        "KV-16 KV-19",
        "compressed keys and values of one layer, as bytes of fp8",
        whole(
            _only(group("a"), a=layer(shape=[None, 16, 9], order=[0, 1, 2], cache_dtype="fp8")),
            "uint8",
        ),
    ),
    valid(
        "rows-alone",
        "KV-16 KV-19",
        "a layer with no dimension but that of rows",
        whole(_only(group("a"), a=layer(shape=[None], order=[0])), "float8_e4m3fn"),
    ),
    valid(
        "names",
        "KV-15 KV-18",
        "names in any script, with any character",
        whole(
            _only(
                group("a.b/c", "\u00e4\U0001f9ca", "\uff21", "\U0001f9ca", " "),
                **dict.fromkeys(
                    ("a.b/c", " ", "\u00e4\U0001f9ca", "\uff21", "\U0001f9ca"), layer()
                ),
            )
        ),
    ),
    valid("adapter", "KV-5 KV-8", "an adapter", whole(session(adapter=ADAPTER))),
    valid("salt", "KV-5 KV-8", "a salt", whole(session(salt_sha256=SALT))),
    valid("media", "KV-17", "two media", whole(session(media=MEDIA))),
    valid(
        "media-edges",
        "KV-17",
        "media at the first token and at the last, going on beyond it",
        whole(
            session(
                media=[
                    {"identifier": "", "offset": 0, "length": 1},
                    {"identifier": "", "offset": 31, "length": 2**53 - 1},
                ]
            )
        ),
    ),
    valid(
        "media-together",
        "KV-17",
        "two media at one offset, and one within another",
        whole(session(media=[MEDIA[0], MEDIA[0] | {"length": 1}, MEDIA[0] | {"offset": 4}])),
    ),
    valid(
        "stride-of-one",
        "KV-20",
        "a dimension of size 1 with another stride",
        shard(session(), tensors=_strided()),
    ),
    valid(
        "storage-larger",
        "KV-21",
        "a tensor that begins within its storage, and ends before it",
        shard(session(), tensors=_placed(), storages=[512, 4096, 256]),
    ),
    valid(
        "storage-unused",
        "KV-21",
        "a storage that no tensor views",
        shard(session(), storages=[512, 512, 256, 77]),
    ),
    valid("bfloat16", "KV-19", "another dtype", whole(session(), "bfloat16")),
    valid("ranks", "KV-22", "two ranks that say the same", set_of(session(), session())),
    valid(
        "ranks-differ",
        "KV-22",
        "two ranks with other weights, engine, layers and members",
        set_of(
            session(),
            changed(
                ("fingerprint", "00" * 32),
                ("engine", {"pp": 1}),
                ("hashes/more", 1),
                ("minor", 3),
                ("groups", [group("z.9"), group(**WINDOW)]),
                ("layers", {"z.9": PAIRED}),
            ),
        ),
    ),
    valid(
        "ranks-engine-apart",
        "KV-22",
        "three ranks, each with a layer of its own",
        set_of(*(_only(group(f"layer.{rank}"), **{f"layer.{rank}": layer()}) for rank in range(3))),
    ),
]
