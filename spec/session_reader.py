"""An independent decoder of sessions, in the order of spec/sessions-1.0.md.

    python spec/session_reader.py PATH                  prints the session table (7.1)
    python spec/session_reader.py --fingerprint PATH    prints the fingerprint (5) of a snapshot

It needs the standard library and reader.py beside it alone. It is slow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import sys
from typing import Any

from reader import (
    PAYLOAD,
    Error,
    Shard,
    crc32c,
    elements,
    extent_of,
    in_order,
    nbytes_of,
    open_path,
    require,
    sha256_of,
    verify_payload,
)

Object = dict[str, Any]

# 2. Members

TEXT, INTEGER, ARRAY, OBJECT, NULL = str, int, list, dict, type(None)
SESSION = {
    "major": (INTEGER,),
    "minor": (INTEGER,),
    "token_ids": (TEXT,),
    "hashes": (OBJECT,),
    "groups": (ARRAY,),
    "layers": (OBJECT,),
    "fingerprint": (TEXT,),
    "engine": (OBJECT,),
    "adapter": (OBJECT, NULL),
    "salt_sha256": (TEXT, NULL),
    "media": (ARRAY,),
}
HASHES = {
    "algorithm": (TEXT,),
    "seed": (TEXT,),
    "block_tokens": (INTEGER,),
    "values": (TEXT,),
}
GROUP = {
    "kind": (TEXT,),
    "block_tokens": (INTEGER,),
    "window": (INTEGER, NULL),
    "first_block": (INTEGER,),
    "blocks": (INTEGER,),
    "layers": (ARRAY,),
}
LAYER = {
    "shape": (ARRAY,),
    "order": (ARRAY,),
    "rows_per_block": (INTEGER,),
    "backend": (TEXT,),
    "cache_dtype": (TEXT,),
}
ADAPTER = {"name": (TEXT,), "sha256": (TEXT,)}
MEDIA = {"identifier": (TEXT,), "offset": (INTEGER,), "length": (INTEGER,)}


# 3. The order of checks


def check_shard(shard: Shard) -> Object:
    """Work through phases 1 to 5, and return the session."""
    session = find_session(shard.manifest)
    check_types(session, {"major": SESSION["major"]}, "the session")
    require(session["major"] == 1, "session-version", "KV-2", f"version {session['major']}")
    check_members(session)
    check_values(session)
    check_tensors(session, shard.manifest["tensors"])
    return session


def check_set(shards: list[Shard]) -> list[Object]:
    """Work through all phases."""
    sessions = [check_shard(shard) for shard in shards]
    for rank, session in enumerate(sessions):
        alike = said_alike(session) == said_alike(sessions[0])
        require(alike, "session-ranks", "KV-22", f"rank {rank} has another session")
    return sessions


# 4.1 The session and its members


def find_session(manifest: Object) -> Object:
    good = manifest["kind"] == "kv"
    require(good, "session-missing", "KV-1", f"kind {manifest['kind']}")
    found = manifest["metadata"].get("session")
    require(type(found) is dict, "session-missing", "KV-1", "no object 'session' in metadata")
    session: Object = found
    return session


def check_types(value: Any, members: Object, where: str) -> None:
    require(type(value) is dict, "session-member-type", "KV-6", f"{where} is no object")
    for name, kinds in members.items():
        there = name in value
        require(there, "session-missing-member", "KV-5", f"{where} has no {name}")
        right = type(value[name]) in kinds
        require(right, "session-member-type", "KV-6", f"{name} of {where}")


def check_elements(values: list[Any], kinds: tuple[type, ...], where: str) -> None:
    right = all(type(value) in kinds for value in values)
    require(right, "session-member-type", "KV-6", f"an element of {where}")


def check_members(session: Object) -> None:
    """Work through phase 3, and put bytes in the place of base64."""
    check_types(session, SESSION, "the session")
    check_types(session["hashes"], HASHES, "hashes")
    for group in session["groups"]:
        check_types(group, GROUP, "a group")
        check_elements(group["layers"], (TEXT,), "layers of a group")
    for name, layer in session["layers"].items():
        check_types(layer, LAYER, f"layer {name}")
        check_elements(layer["shape"], (INTEGER, NULL), f"shape of layer {name}")
        check_elements(layer["order"], (INTEGER,), f"order of layer {name}")
    for media in session["media"]:
        check_types(media, MEDIA, "media")
    session["token_ids"] = decoded(session["token_ids"])
    session["hashes"]["values"] = decoded(session["hashes"]["values"])
    check_digits(session["hashes"]["seed"], "(?:[0-9a-f][0-9a-f])+")
    sha256 = "[0-9a-f]{64}"
    check_digits(session["fingerprint"], sha256)
    if session["salt_sha256"] is not None:
        check_digits(session["salt_sha256"], sha256)
    if session["adapter"] is not None:
        check_types(session["adapter"], ADAPTER, "adapter")
        check_digits(session["adapter"]["sha256"], sha256)


def decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Error("session-base64", "KV-7", str(error)) from None
    same = base64.b64encode(data).decode() == text
    require(same, "session-base64", "KV-7", "its bytes are written otherwise")
    return data


def check_digits(text: str, pattern: str) -> None:
    good = re.fullmatch(pattern, text) is not None
    require(good, "session-digits", "KV-8", f"{text[:70]!r} for {pattern}")


# 4.2 Tokens, hashes, groups


def count_of(session: Object) -> int:
    """Return n."""
    return len(session["token_ids"]) // 4


def check_values(session: Object) -> None:
    """Work through phase 4."""
    nbytes = len(session["token_ids"])
    require(nbytes > 0, "session-tokens", "KV-9", "no tokens")
    require(nbytes % 4 == 0, "session-tokens", "KV-9", f"{nbytes} bytes of tokens")
    check_block_tokens(session["hashes"], nbytes // 4)
    check_hashes(session["hashes"], nbytes // 4)
    for group in session["groups"]:
        check_block_tokens(group, nbytes // 4)
        check_group(group, nbytes // 4)
    check_names(session)
    for name, layer in session["layers"].items():
        check_layer(layer, name)
    check_media(session["media"], nbytes // 4)


def check_block_tokens(value: Object, tokens: int) -> None:
    block = value["block_tokens"]
    good = block >= 1 and tokens % block == 0
    require(good, "session-block-tokens", "KV-10", f"{tokens} tokens in blocks of {block}")


def check_hashes(hashes: Object, tokens: int) -> None:
    count, nbytes = tokens // hashes["block_tokens"], len(hashes["values"])
    require(nbytes > 0, "session-hashes", "KV-11", "no hashes")
    require(nbytes % count == 0, "session-hashes", "KV-11", f"{nbytes} bytes, {count} hashes")
    known = hashes["algorithm"] in ("sha256", "sha256_cbor")
    right = not known or nbytes == 32 * count
    require(right, "session-hashes", "KV-11", f"{nbytes} bytes of {hashes['algorithm']}")


def check_group(group: Object, tokens: int) -> None:
    kind, window, first, blocks = (group[k] for k in ("kind", "window", "first_block", "blocks"))
    known = kind in ("full", "sliding-window", "state")
    require(known, "session-group", "KV-12", f"kind {kind}")
    if kind == "full":
        require(window is None, "session-group", "KV-12", f"full, with a window of {window}")
        require(first == 0, "session-group", "KV-12", f"full, from block {first}")
    elif kind == "state":
        require(window is None, "session-group", "KV-12", f"a state, with a window of {window}")
    else:
        sized = window is not None and window >= 1
        require(sized, "session-group", "KV-12", f"a window of {window}")
    count = tokens // group["block_tokens"]
    require(first >= 0, "session-blocks", "KV-13", f"from block {first}")
    require(blocks >= 1, "session-blocks", "KV-13", f"{blocks} blocks")
    require(first + blocks == count, "session-blocks", "KV-13", f"{first} + {blocks} of {count}")
    if window is not None:
        enough = blocks * group["block_tokens"] >= min(tokens, window - 1)
        require(enough, "session-window", "KV-14", f"{blocks} blocks for a window of {window}")


# 4.3 Layers and media


def check_names(session: Object) -> None:
    layers = session["layers"]
    require(len(layers) > 0, "session-layers", "KV-15", "no layers")
    named = [name for group in session["groups"] for name in group["layers"]]
    once = len(named) == len(set(named))
    require(once, "session-layers", "KV-15", "a layer is named twice")
    require(set(named) == set(layers), "session-layers", "KV-15", "groups and layers differ")


def check_layer(layer: Object, name: str) -> None:
    shape, order, rows = layer["shape"], layer["order"], layer["rows_per_block"]
    require(shape.count(None) == 1, "session-layer", "KV-16", f"{name}: shape {shape}")
    positive = all(size is None or size >= 1 for size in shape)
    require(positive, "session-layer", "KV-16", f"{name}: shape {shape}")
    all_once = sorted(order) == [*range(len(shape))]
    require(all_once, "session-layer", "KV-16", f"{name}: order {order}")
    require(rows >= 1, "session-layer", "KV-16", f"{name}: {rows} rows a block")


def check_media(media: list[Object], tokens: int) -> None:
    at = 0
    for each in media:
        require(each["offset"] >= at, "session-media", "KV-17", f"offset {each['offset']}")
        require(each["offset"] < tokens, "session-media", "KV-17", f"offset {each['offset']}")
        require(each["length"] >= 1, "session-media", "KV-17", f"length {each['length']}")
        at = each["offset"]


# 4.4 Tensors


def check_tensors(session: Object, tensors: Object) -> None:
    """Work through phase 5."""
    same = set(tensors) == set(session["layers"])
    require(same, "session-tensors", "KV-18", "tensors and layers have other names")
    for group in session["groups"]:
        for name in group["layers"]:
            layer, tensor = session["layers"][name], tensors[name]
            row = [layer["shape"][axis] for axis in layer["order"]]
            row.remove(None)
            shape = [group["blocks"] * layer["rows_per_block"], *row]
            right = tensor["shape"] == shape
            require(right, "session-tensor-shape", "KV-19", f"{name}: {tensor['shape']}")
            dense = in_order(tensor)
            require(dense, "session-tensor-stride", "KV-20", f"{name}: {tensor['stride']}")
    used = [tensor["storage"] for tensor in tensors.values()]
    apart = len(used) == len(set(used))
    require(apart, "session-storage", "KV-21", f"storages {sorted(used)[:10]}")


# 4.5 Several ranks


def said_alike(session: Object) -> Object:
    return {
        "token_ids": session["token_ids"],
        "salt_sha256": session["salt_sha256"],
        "hashes": known_of(session["hashes"], HASHES),
        "adapter": session["adapter"] and known_of(session["adapter"], ADAPTER),
        "media": [known_of(each, MEDIA) for each in session["media"]],
        "groups": [known_of(each, GROUP) | {"layers": None} for each in session["groups"]],
    }


def known_of(value: Object, members: Object) -> Object:
    """Return the members that the tables have."""
    return {name: value[name] for name in members}


# 5. The fingerprint

PIECE_NBYTES = 1 << 22


def fingerprint_of(shard: Shard) -> str:
    """Compute it of the tensors of a shard, as if they were an engine's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(shard.manifest["tensors"].items()):
        data = bytes_of(shard, tensor)
        starts = range(0, len(data), PIECE_NBYTES)
        crcs = [crc32c(data[start : start + PIECE_NBYTES]) for start in starts]
        line = [name, tensor["dtype"], tensor["shape"], crcs]
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def bytes_of(shard: Shard, tensor: Object) -> bytes:
    """Return the elements in index order."""
    start = shard.section(PAYLOAD).offset + tensor["offset"]
    start += shard.manifest["storages"][tensor["storage"]]["offset"]
    extent = shard.read(start, extent_of(tensor))
    if not nbytes_of(tensor):
        return b""
    return extent if in_order(tensor) else elements(extent, tensor)


# 6. What an engine may do with a session


def usable_tokens(session: Object, request: Object) -> int:
    """Return the greatest L of KV-USE-2 to KV-USE-6 for a request (7.2), 0 if there is none."""
    ids = base64.b64decode(request["token_ids"])
    steps = [group["block_tokens"] for group in session["groups"]]
    lengths = range(1, 1 + min(len(ids) // 4, count_of(session)))
    good = (
        length
        for length in reversed(lengths)
        if not any(length % step for step in steps) and may_use(session, request, ids, length)
    )
    return next(good, 0)


def may_use(session: Object, request: Object, ids: bytes, length: int) -> bool:
    salt = request["salt"]
    digest = None if salt is None else hashlib.sha256(salt.encode()).hexdigest()
    theirs, ours = (
        [known_of(each, MEDIA) for each in one["media"] if each["offset"] < length]
        for one in (session, request)
    )
    return (
        session["token_ids"][: 4 * length] == ids[: 4 * length]
        and all(reaches(group, length) for group in session["groups"])
        and digest_of(session["adapter"]) == digest_of(request["adapter"])
        and session["salt_sha256"] == digest
        and theirs == ours
    )


def reaches(group: Object, length: int) -> bool:
    """Say whether a group has all that tokens from L on need."""
    first: int = group["first_block"] * group["block_tokens"]
    needed: int = 0 if group["window"] is None else max(0, length - group["window"] + 1)
    if group["kind"] == "state":
        needed = length - group["block_tokens"]
    return first <= needed


def digest_of(adapter: Object | None) -> str | None:
    return adapter["sha256"] if adapter else None


# 7.1 The session table


def row_of(shard: Shard, session: Object) -> Object:
    hashes, adapter = session["hashes"], session["adapter"]
    count = count_of(session) // hashes["block_tokens"]
    return {
        "rank": shard.manifest["shard"]["rank"],
        "tokens": count_of(session),
        "token_ids_sha256": hashlib.sha256(session["token_ids"]).hexdigest(),
        "hashes": {
            **{key: hashes[key] for key in ("algorithm", "seed", "block_tokens")},
            "count": count,
            "width": len(hashes["values"]) // count,
            "sha256": hashlib.sha256(hashes["values"]).hexdigest(),
        },
        "groups": [known_of(group, GROUP) for group in session["groups"]],
        "layers": [layer_row(shard, session, name) for name in sorted(session["layers"])],
        "adapter": adapter and known_of(adapter, ADAPTER),
        "media": [known_of(each, MEDIA) for each in session["media"]],
        **{key: session[key] for key in ("fingerprint", "engine", "salt_sha256")},
    }


def layer_row(shard: Shard, session: Object, name: str) -> Object:
    tensor = shard.manifest["tensors"][name]
    rows = tensor["shape"][0]
    owners = [n for n, group in enumerate(session["groups"]) if name in group["layers"]]
    return known_of(session["layers"][name], LAYER) | {
        "name": name,
        "group": owners[0],
        "dtype": tensor["dtype"],
        "rows": rows,
        "row_nbytes": nbytes_of(tensor) // rows,
        "sha256": sha256_of(shard, tensor),
    }


def main(path: str, fingerprint: bool = False) -> int:
    shards: list[Shard] = []
    try:
        shards = open_path(path)
        for shard in shards:
            verify_payload(shard)
        if fingerprint:
            found: Object = {"fingerprints": [fingerprint_of(shard) for shard in shards]}
        else:
            sessions = check_set(shards)
            found = {"sessions": [row_of(*each) for each in zip(shards, sessions, strict=True)]}
        print(json.dumps(found))
        return 0
    except Error as error:
        found = {"code": error.code, "rule": error.rule, "message": error.message}
    except OSError as error:
        found = {"code": "io", "rule": None, "message": str(error)}
    finally:
        for shard in shards:
            shard.file.close()
    print(json.dumps(found), file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1:-1] not in ([], ["--fingerprint"]):
        sys.exit("usage: session_reader.py [--fingerprint] PATH")
    sys.exit(main(sys.argv[-1], len(sys.argv) == 3))
