"""The vectors that a reader has to accept: layouts, text, numbers and sets."""

from __future__ import annotations

import struct

from vector_builder import EXTENSION, PRIVATE, File, Object, arena, manifest, pattern, tensor, text
from vector_case import (
    PAYLOAD,
    PLAIN,
    Case,
    empty,
    metadata,
    plain,
    rank_shard,
    ranks,
    sealed,
    snapshot,
    valid,
)

MAX = 2**53 - 1


def _arranged() -> File:
    storages = (pattern(5000, "first"), pattern(1024, "second"), b"")
    payload, listed = arena(*storages, at=(4608, 20480, 28672), nbytes=29000)
    tensors = {
        "first": tensor("uint8", (5000,)),
        "second": tensor("float64", (128,), storage=1),
        "nothing": tensor("float64", (0,), storage=2),
    }
    return File(
        manifest=text(manifest(storages=listed, tensors=tensors)),
        payload=payload,
        extra={"notes": (EXTENSION + 7, b"between"), "hole": (EXTENSION + 8, b"")},
        order=("notes", "payload", "hole", "digests", "manifest"),
        listed=("manifest", "notes", "payload", "hole", "digests"),
        offsets={"notes": 5001, "payload": 8192, "hole": 9000, "digests": 40003, "manifest": 41000},
        file_nbytes=45000,
    )


def _unknown_members() -> File:
    members = manifest(
        shard={"rank": 0, "size": 1, "tp": {"rank": 0, "size": 1, "x": None}, "dp": 3},
        producer={"name": "vectors", "version": "1.0", "commit": "abc", "build": [1, {"a": True}]},
        storages=[{"offset": 0, "nbytes": 24, "device": "cuda:0", "crc32c": None}],
        tensors={"w": tensor("float32", (2, 3)) | {"requires_grad": False, "layout": {"x": []}}},
        later={"storages": "not those", "tensors": [1, 2]},
        Kind=17,
    )
    return plain(manifest=text(members))


def _spaced_json() -> File:
    raw = text(PLAIN).replace(b":", b" \t:\r\n ").replace(b",", b"\n,\t").replace(b"{", b"{ \r")
    escaped = raw.replace(b'"weights"', b'"\\u0077\\u0065ights\\/\\b\\f\\n\\r\\t\\"\\\\"')
    return plain(
        manifest=b" \t\r\n" + escaped.replace(b'"tensors"', b'"\\u0074ensors"') + b"\r\n\t "
    )


def _nested(opening: str, closing: str, levels: int) -> str:
    return opening * levels + "0" + closing * levels


LAYOUT = [
    valid(
        "minimal",
        "CON-1 CON-2",
        "one scalar; the worked example of the specification",
        snapshot({"x": tensor("float32")}, struct.pack("<f", 1.0)),
    ),
    valid(
        "plain",
        "CON-2 SEAL-1 SEAL-2",
        "one small matrix; invalid/bad-magic-unsealed is this file before it was sealed",
        plain(),
    ),
    valid("empty-snapshot", "CON-2 SEC-5 SEC-10", "no tensors, a payload of no bytes", empty()),
    valid(
        "features-and-reserved",
        "SB-8 SB-9",
        "unknown compatible features, nonzero reserved bytes and unused section entries",
        plain(
            head={"compatible_features": 2**63 | 1},
            poke={64: b"\xff" * 192, 352: pattern(1952, "unused"), 2304: b"\xff" * 1788},
        ),
    ),
    valid(
        "unused-entry-required",
        "SB-9",
        "entries beyond section_count that would break rules if they counted",
        plain(poke={352: struct.pack("<IIQQII", 9, 1, 2**64 - 1, 9, 9, 9) * 2}),
    ),
    valid("unknown-minor", "SB-5", "a later minor version", plain(head={"minor": 65535})),
    valid(
        "optional-sections",
        "SEC-4 SEC-15",
        "sections of unknown types, one empty, one of type 5, two of one type, two private ones",
        plain(
            extra={
                "a": (EXTENSION, pattern(100)),
                "b": (EXTENSION, b""),
                "c": (5, b"\0\0"),
                "e": (PRIVATE, pattern(16)),
                "d": (2**32 - 1, b"x" * 4097),
            }
        ),
    ),
    valid(
        "entry-bits",
        "SEC-14",
        "reserved flags, reserved fields and a checksum in the payload's entry; required flags",
        plain(
            extra={"a": (EXTENSION, b"abc")},
            entries={
                "manifest": {"flags": 1, "reserved": 7},
                "digests": {"flags": 3},
                "payload": {"flags": 2**32 - 1, "crc32c": 0xDEADBEEF, "reserved": 2**32 - 1},
                "a": {"flags": 2**32 - 2, "reserved": 1},
            },
        ),
    ),
    valid(
        "sections-full",
        "SB-13 SEC-4",
        "64 sections",
        plain(extra={f"e{i}": (EXTENSION + i, bytes([i])) for i in range(61)}),
    ),
    valid(
        "arranged-otherwise",
        "SEC-7 SEC-8 PAY-3",
        "sections in an unusual order with gaps, an empty one inside another, a payload with "
        "large gaps and a tail, padding at the end",
        _arranged(),
    ),
    valid(
        "payload-first",
        "SEC-2 SEC-8",
        "the payload right after the superblock, the manifest last",
        plain(order=("payload", "digests", "manifest")),
    ),
    valid(
        "empty-payload-at-end",
        "SEC-2 SEC-8",
        "an empty payload and an empty section that begin where the file ends",
        empty(offsets={"payload": 8192}, extra={"a": (EXTENSION, b"")}, file_nbytes=8192),
    ),
]

CHUNKS = [
    valid(
        "chunks-last-short",
        "PAY-1 SEC-10",
        "three chunks, the last of one byte",
        snapshot({"x": tensor("uint8", (8193,))}, pattern(8193)),
    ),
    valid(
        "chunks-exact",
        "PAY-1 SEC-10",
        "a payload of exactly two chunks",
        snapshot({"x": tensor("int32", (2048,))}, pattern(8192)),
    ),
    *(
        valid(
            f"chunk-size-{size}",
            "SB-12",
            f"chunks of {size} bytes",
            plain(chunk_nbytes=size),
        )
        for size in (8192, 2**22, 2**30)
    ),
    valid(
        "unreferenced-storage",
        "PAY-1 STO-3",
        "a storage that no tensor views, and storages of no bytes between others",
        File(
            manifest=text(
                manifest(
                    storages=[
                        {"offset": offset, "nbytes": nbytes}
                        for offset, nbytes in ((0, 512), (512, 0), (512, 0), (512, 24), (1024, 0))
                    ],
                    tensors={"w": tensor("float32", (2, 3), storage=3)},
                )
            ),
            payload=pattern(536).ljust(1024, b"\0"),
        ),
    ),
    valid(
        "payload-without-storages",
        "PAY-1 PAY-3",
        "a payload of zeros that belongs to no storage",
        empty(payload=bytes(5000)),
    ),
    valid(
        "strided-gaps",
        "PAY-1 PAY-3 TEN-7",
        "nonzero bytes of a storage before, between and after the elements of its only tensor",
        snapshot({"x": tensor("int16", (3, 2), (10, 3), offset=6)}, pattern(200)),
    ),
]


def _scripts() -> File:
    names = [
        "\u0648\u0632\u0646.\u0637\u0628\u0642\u0629",
        "\u5c42.0.\u6743\u91cd",
        "\u0441\u043b\u043e\u0439",
        "\u05e9\u05db\u05d1\u05d4",
        "emoji.\U0001f9ca",
        "caf\u00e9",
        "cafe\u0301",
        "\ufb01ne",
        "fine",
        "Fine",
        "\uff57",
        "\U00010000",
        "model.layers.0/self attn\\q_proj.weight",
        "..",
        "../../etc/passwd",
        "/",
        " ",
        "  leading and trailing  ",
        "\ufeffmark",
        "\uffff",
        "\ufdd0\ufdef\ufffe",
        "\U0001fffe\U0010ffff",
        "\u202ereversed",
        "\x7f\x80\u2028",
        "__proto__",
        "tensors",
    ]
    tensors = {name: tensor("uint8", (2,), offset=index) for index, name in enumerate(names)}
    raw = text(manifest(storages=[{"offset": 0, "nbytes": 100}], tensors=tensors))
    escaped = rb'"emoji.\ud83e\uddca\u0000"'.replace(rb"\u0000", rb"\uD83D\uDE00\n\u001f")
    more = escaped + b":" + text(tensor("uint8", (3,), offset=50))
    return File(
        manifest=raw.replace(b'"tensors":{', b'"tensors":{' + more + b","), payload=pattern(100)
    )


TEXT = [
    valid("names-scripts", "TEN-1 JSON-6 JSON-3", "names that differ by code points", _scripts()),
    valid(
        "names-long",
        "TEN-1",
        "names of 4096 bytes, of one-byte and of three-byte characters, and of one byte",
        snapshot(
            {name: tensor("uint8", (4,)) for name in ("n" * 4096, "\u5c42" * 1365 + "n", "n")},
            pattern(4),
        ),
    ),
    valid("json-spaced", "JSON-2 MAN-4", "white space and escapes everywhere", _spaced_json()),
    valid(
        "json-numbers",
        "JSON-4",
        "the largest and smallest integers, and minus zero",
        metadata(f'{{"a":[{MAX},-{MAX},0,-0,1],"b":{MAX}}}'),
    ),
    valid(
        "json-minus-zero",
        "JSON-4 MAN-5 STO-1 TEN-3",
        "minus zero for a rank, offsets, an index, a size and a stride",
        plain(
            manifest=text(
                PLAIN | {"tensors": PLAIN["tensors"] | {"nothing": tensor("int16", (3, 0), (0, 0))}}
            )
            .replace(b'"rank":0', b'"rank":-0')
            .replace(b'"offset":0', b'"offset":-0')
            .replace(b'"storage":0', b'"storage":-0')
            .replace(b"[3,0]", b"[3,-0]")
            .replace(b"[0,0]", b"[-0,-0]")
        ),
    ),
    valid(
        "json-depth-arrays",
        "JSON-5",
        "arrays to level 32",
        metadata(f'{{"d":{_nested("[", "]", 30)}}}'),
    ),
    valid(
        "json-depth-objects", "JSON-5", "objects to level 32", metadata(_nested('{"":', "}", 31))
    ),
    valid(
        "json-many-arrays",
        "JSON-5",
        "many arrays side by side are not deep",
        metadata('{"d":[' + "[]," * 5000 + "[]]}"),
    ),
    valid(
        "json-values",
        "JSON-2 JSON-6",
        "every kind of value, brackets and escapes in strings, a raw U+007F, noncharacters",
        metadata(
            '{"":null,"a":true,"b":false,"c":[],"d":{},"e":"[{\\"]}\\\\","f":"NaN 1.5 1e3",'
            '"g":"\x7f\uffff\ufffe\U0010ffff","h":"\\u0000\\uffff","i":"\\udbff\\udfff"}'
        ),
    ),
    valid(
        "json-same-key-apart",
        "JSON-3",
        "one member name in several objects, and names that differ in case",
        metadata('{"a":{"a":{"a":[{"a":1},{"a":1}]}},"A":1,"metadata":{"kind":"x"}}'),
    ),
    valid("unknown-members", "MAN-3", "unknown members in every object", _unknown_members()),
    valid(
        "unknown-kind",
        "MAN-4",
        "a kind that nobody knows",
        plain(manifest=text(PLAIN | {"kind": ""})),
    ),
    valid(
        "metadata-large",
        "MAN-3 JSON-2",
        "more metadata than tensors",
        metadata(text({f"key {i}": ["value", i, {"n": -i}] for i in range(500)})),
    ),
    valid(
        "shard-places",
        "MAN-1 MAN-5",
        "places in tensor, pipeline and expert parallelism",
        plain(
            manifest=text(
                PLAIN
                | {
                    "shard": {
                        "rank": 5,
                        "size": 8,
                        "tp": {"rank": 1, "size": 2},
                        "pp": {"rank": 3, "size": 4},
                        "ep": {"rank": 99998, "size": 99999},
                    }
                }
            )
        ),
    ),
    valid(
        "shard-last",
        "MAN-5",
        "the last of the greatest number of ranks",
        plain(manifest=text(PLAIN | {"shard": {"rank": 99998, "size": 99999}})),
    ),
]


def _set(**members: object) -> dict[str, File | bytes]:
    return ranks(rank_shard(0), rank_shard(1), **members)


def _extended_index() -> dict[str, File | bytes]:
    folder = _set(
        minor=9,
        later={"ranks": [], "crc32c": None},
        created=[None],
        required_features=[],
        metadata={"of": "all ranks", "required_features": ["not one"]},
    )
    index = folder["snapshot.json"]
    assert isinstance(index, bytes)
    raw = index.replace(b'{"file"', b'{"host":"a","file"')
    strangers: dict[str, File | bytes] = {
        "README": b"not part of the snapshot",
        "rank-00002-of-00003.thaw": b"neither is this",
        "rank-00001-of-00002.thaw.tmp": b"\0" * 100,
        "more/rank-00000-of-00002.thaw": b"nor this",
    }
    return folder | {"snapshot.json": sealed(b"\n" + raw + b"\n")} | strangers


SETS = [
    valid("set-two-ranks", "SET-1 SET-2 SET-5 SET-9", "two ranks", _set()),
    valid("set-one-rank", "SET-4", "a folder with one rank", ranks(rank_shard(0, 1))),
    valid(
        "set-three-ranks",
        "SET-6 SET-7 SET-8",
        "three ranks whose files differ in size, chunk size and minor version",
        ranks(
            rank_shard(0, 3),
            rank_shard(1, 3, chunk_nbytes=8192, extra={"a": (EXTENSION, b"a")}),
            rank_shard(2, 3, head={"minor": 1}),
        ),
    ),
    valid(
        "set-with-strangers",
        "SET-3 SET-4",
        "other files in the folder, a later minor version and unknown members in the index",
        _extended_index(),
    ),
    valid("set-shard-alone", "CON-2 SET-9", "a shard of a set opened as a file", rank_shard(1)),
]

_DOTTED: Object = {"shard": {"rank": 0, "size": 1, "dp": {"rank": 9, "size": 0}}}
MEMBERS = [
    valid(
        "shard-unknown-axis",
        "MAN-3 MAN-5",
        "an unknown parallelism, whose numbers mean nothing",
        plain(manifest=text(PLAIN | _DOTTED)),
    ),
    valid(
        "no-tensors",
        "MAN-1",
        "a storage and no tensors",
        plain(manifest=text(PLAIN | {"tensors": {}}), payload=PAYLOAD),
    ),
]

CASES: list[Case] = [*LAYOUT, *CHUNKS, *TEXT, *MEMBERS, *SETS]
