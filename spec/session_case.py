"""The small session that most vectors of sessions begin with, and how they depart from it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from vector_builder import (
    ELEMENT_NBYTES,
    File,
    Object,
    arena,
    manifest,
    pattern,
    tensor,
    tensor_table,
    text,
)
from vector_case import Case, Folder, ranks

REMOVED = object()
TOKENS = 32
Tensors = Mapping[str, Object]


@dataclass(frozen=True, slots=True)
class SessionCase(Case):
    """A vector of a session."""

    def expected(self) -> Object:
        """Return the members of its JSON file."""
        said: Object = {"description": self.description, "rules": list(self.rules)}
        if self.code:
            return said | {"error": {"code": self.code, "rule": self.rules[0]}}
        parts = self.content.values() if isinstance(self.content, dict) else [self.content]
        shards = [part for part in parts if isinstance(part, File)]
        return said | {"sessions": [session_row(shard) for shard in shards]}


def valid(name: str, rules: str, description: str, content: Any) -> SessionCase:
    """Make a case that a reader has to accept."""
    return SessionCase(
        name=name, description=description, rules=tuple(rules.split()), content=content
    )


def invalid(rules: str, code: str, variants: Mapping[str, tuple[str, Any]]) -> list[SessionCase]:
    """Make the cases that a reader has to reject with a code, named after it; its rule is first."""
    return [
        SessionCase(
            name=f"{code}-{variant}",
            description=description,
            rules=tuple(rules.split()),
            content=content,
            code=code,
        )
        for variant, (description, content) in variants.items()
    ]


def encoded(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def token_ids(count: int = TOKENS) -> bytes:
    """Return the bytes of as many tokens, all different."""
    return struct.pack(f"<{count}I", *(100 + 7 * index for index in range(count)))


def layer(**members: Any) -> Object:
    """Describe a layer of one head of four elements for keys and four for values."""
    plain: Object = {
        "shape": [None, 1, 16, 8],
        "order": [0, 1, 2, 3],
        "rows_per_block": 1,
        "backend": "FLASH_ATTN",
        "cache_dtype": "auto",
    }
    return plain | members


def group(*layers: str, **members: Any) -> Object:
    """Describe a group of full attention that stores all of 32 tokens."""
    plain: Object = {
        "kind": "full",
        "block_tokens": 16,
        "window": None,
        "first_block": 0,
        "blocks": 2,
        "layers": list(layers),
    }
    return plain | members


def session(**members: Any) -> Object:
    """Describe a session of 32 tokens and of three layers, one with a sliding window."""
    plain: Object = {
        "major": 1,
        "minor": 0,
        "token_ids": encoded(token_ids()),
        "hashes": hashes(),
        "groups": [group("a.0", "a.1"), group("b.0", **WINDOW)],
        "layers": {"a.0": layer(), "a.1": layer(), "b.0": layer()},
        "fingerprint": hashlib.sha256(b"weights").hexdigest(),
        "engine": {"vllm": "0.26.0", "model": {"heads": 1, "rope": None}},
        "adapter": None,
        "salt_sha256": None,
        "media": [],
    }
    return deepcopy(plain | members)


def hashes(count: int = 2, width: int = 32, **members: Any) -> Object:
    """Describe as many hashes."""
    plain: Object = {
        "algorithm": "sha256",
        "seed": hashlib.sha256(b"seed").hexdigest(),
        "block_tokens": 16,
        "values": encoded(pattern(count * width, "hashes")),
    }
    return plain | members


WINDOW: Object = {"kind": "sliding-window", "window": 12, "first_block": 1, "blocks": 1}
ADAPTER: Object = {"name": "alice", "sha256": hashlib.sha256(b"adapter").hexdigest()}
SALT = hashlib.sha256(b"salt").hexdigest()
MEDIA: list[Object] = [
    {"identifier": "cat", "offset": 3, "length": 9},
    {"identifier": "dog", "offset": 20, "length": 4},
]
FULL = session(adapter=ADAPTER, salt_sha256=SALT, media=MEDIA)
"""The plain session, with all that it may have."""


def changed(*changes: tuple[str, Any], base: Object | None = None) -> Object:
    """Describe a session of which members, by paths with slashes, are others or gone."""
    found = session() if base is None else deepcopy(base)
    for path, value in changes:
        parent: Any = found
        *way, last = (int(key) if key.isdigit() else key for key in path.split("/"))
        for key in way:
            parent = parent[key]
        if value is REMOVED:
            del parent[last]
        else:
            parent[last] = value
    return found


def tensors_of(said: Object, dtype: str = "float16") -> dict[str, Object]:
    """Describe the tensors that a session's layers have, each in a storage of its own."""
    found: dict[str, Object] = {}
    for each in said["groups"]:
        for name in each["layers"]:
            layout = said["layers"][name]
            row = [layout["shape"][axis] for axis in layout["order"]]
            shape = [each["blocks"] * layout["rows_per_block"], *(x for x in row if x is not None)]
            found[name] = tensor(dtype, shape, storage=len(found))
    return found


def shard(
    said: Any,
    *,
    tensors: Tensors | None = None,
    storages: Sequence[int] = (),
    metadata: Object | None = None,
    members: Object | None = None,
    **file: Any,
) -> File:
    """Make the file of a session.

    Args:
        said: what it says of the session.
        tensors: in place of those that the plain session's layers have.
        storages: their sizes, in place of those that the tensors need.
        metadata: in place of one that holds the session alone.
    """
    found = tensors_of(session()) if tensors is None else tensors
    sizes = storages or [_nbytes(each) for each in found.values()]
    payload, listed = arena(*(pattern(size, f"storage {i}") for i, size in enumerate(sizes)))
    root = manifest(
        kind="kv",
        storages=listed,
        tensors=dict(found),
        metadata={"session": said} if metadata is None else metadata,
    )
    kept = {key: each for key, each in (root | (members or {})).items() if each is not REMOVED}
    return File(**({"manifest": text(kept), "payload": payload} | file))


def whole(said: Object, dtype: str = "float16", **members: Any) -> File:
    """Make the file of a session, with the tensors that its layers have."""
    return shard(said, tensors=tensors_of(said, dtype), members=members)


def _nbytes(spec: Object) -> int:
    nbytes = ELEMENT_NBYTES[spec["dtype"]]
    for size in spec["shape"]:
        nbytes *= size
    return nbytes


def set_of(*said: Object) -> Folder:
    """Make the folder of a session of several ranks, of what each says of it."""
    places = [{"rank": rank, "size": len(said)} for rank in range(len(said))]
    each = zip(said, places, strict=True)
    return ranks(*(whole(one, shard=place | {"tp": place}) for one, place in each))


def session_row(file: File) -> Object:
    """Return what a reader has to find in the file of a rank."""
    root = json.loads(file.manifest)
    said = root["metadata"]["session"]
    ids, values = (base64.b64decode(each) for each in (said["token_ids"], _values(said)))
    count = len(ids) // 4 // said["hashes"]["block_tokens"]
    tables = {row["name"]: row for row in tensor_table(file)}
    owners = {name: n for n, each in enumerate(said["groups"]) for name in each["layers"]}
    adapter = said["adapter"]
    return {
        "rank": root["shard"]["rank"],
        "tokens": len(ids) // 4,
        "token_ids_sha256": hashlib.sha256(ids).hexdigest(),
        "hashes": {
            **{key: said["hashes"][key] for key in ("algorithm", "seed", "block_tokens")},
            "count": count,
            "width": len(values) // count,
            "sha256": hashlib.sha256(values).hexdigest(),
        },
        "groups": [{key: each[key] for key in group()} for each in said["groups"]],
        "layers": [
            _layer_row(name, said["layers"][name], owners[name], tables[name])
            for name in sorted(said["layers"])
        ],
        "adapter": None if adapter is None else {key: adapter[key] for key in ADAPTER},
        "media": [{key: each[key] for key in MEDIA[0]} for each in said["media"]],
        **{key: said[key] for key in ("fingerprint", "engine", "salt_sha256")},
    }


def _values(said: Object) -> str:
    return str(said["hashes"]["values"])


def _layer_row(name: str, said: Object, owner: int, table: Object) -> Object:
    rows, *row = table["shape"]
    return {key: said[key] for key in layer()} | {
        "name": name,
        "group": owner,
        "dtype": table["dtype"],
        "rows": rows,
        "row_nbytes": _nbytes({"dtype": table["dtype"], "shape": row}),
        "sha256": table["sha256"],
    }
