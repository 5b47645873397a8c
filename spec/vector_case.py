"""What a test vector is, and the small snapshots that most of them begin with."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from vector_builder import (
    SNAPSHOT_ID,
    File,
    Object,
    arena,
    crc32c,
    manifest,
    pattern,
    tensor,
    tensor_table,
    text,
)

Folder: TypeAlias = dict[str, File | bytes]
Content: TypeAlias = File | Folder | bytes
Variants: TypeAlias = Mapping[str, tuple[str, Content]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A vector: a file or a folder, the rules it is about, and the error code if it is invalid.

    Attributes:
        either: a reader may accept it, with its table, or reject it, with the code.
    """

    name: str
    description: str
    rules: tuple[str, ...]
    content: Content
    code: str = ""
    either: bool = False

    @property
    def place(self) -> str:
        """Say where it lies below the folder of the vectors, without a suffix."""
        return f"{'invalid' if self.code and not self.either else 'valid'}/{self.name}"

    def files(self) -> dict[str, bytes]:
        """Return the bytes of its files, by path below the folder of the vectors."""
        path = f"{self.place}.thaw"
        if not isinstance(self.content, dict):
            return {path: build(self.content)}
        return {f"{path}/{name}": build(each) for name, each in self.content.items()}

    def expected(self) -> Object:
        """Return the members of its JSON file."""
        said: Object = {"description": self.description, "rules": list(self.rules)}
        if self.code:
            rule = self.rules[0] if self.rules else None
            said |= {"error": {"code": self.code, "rule": rule}}
        if self.code and not self.either:
            return said
        parts = self.content.values() if isinstance(self.content, dict) else [self.content]
        shards = [part for part in parts if isinstance(part, File)]
        return said | {"tensors": [row for shard in shards for row in tensor_table(shard)]}


def build(content: File | bytes) -> bytes:
    """Return the bytes of a file."""
    return content.build() if isinstance(content, File) else content


def valid(name: str, rules: str, description: str, content: Content) -> Case:
    """Make a case that a reader has to accept."""
    return Case(name=name, description=description, rules=tuple(rules.split()), content=content)


def either(name: str, rules: str, code: str, description: str, content: Content) -> Case:
    """Make a case that a reader accepts, or rejects with this code alone; its rule is first."""
    return Case(
        name=name,
        description=description,
        rules=tuple(rules.split()),
        content=content,
        code=code,
        either=True,
    )


def invalid(rules: str, code: str, variants: Variants) -> list[Case]:
    """Make the cases that a reader has to reject with a code, named after it; its rule is first."""
    return [
        Case(
            name=f"{code}-{variant}",
            description=description,
            rules=tuple(rules.split()),
            content=content,
            code=code,
        )
        for variant, (description, content) in variants.items()
    ]


def snapshot(tensors: Object, *storages: bytes, members: Object | None = None, **file: Any) -> File:
    """Make a file of tensors over storages that stand one after another."""
    payload, listed = arena(*storages)
    said = manifest(storages=listed, tensors=tensors) | (members or {})
    return File(manifest=text(said), payload=payload, **file)


def plain(**file: Any) -> File:
    """Make a file of one small tensor, with departures from what a writer would make of it."""
    return File(**({"manifest": text(PLAIN), "payload": PAYLOAD} | file))


def empty(**file: Any) -> File:
    """Make a file without tensors, storages and payload, with departures."""
    return File(**({"manifest": text(manifest())} | file))


def metadata(raw: str | bytes) -> File:
    """Make the plain file with raw JSON text in the place of the value of `metadata`."""
    data = raw if isinstance(raw, bytes) else raw.encode()
    return plain(manifest=text(PLAIN).replace(b'"metadata":{}', b'"metadata":' + data))


def changed(path: str, value: Any) -> File:
    """Make the plain file with a member of the manifest changed, by its dotted path."""
    members, parent, key = _member(path)
    parent[key] = value
    return plain(manifest=text(members))


def removed(path: str) -> File:
    """Make the plain file without a member of the manifest."""
    members, parent, key = _member(path)
    del parent[key]
    return plain(manifest=text(members))


def _member(path: str) -> tuple[Object, Any, Any]:
    members = deepcopy(PLAIN)
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
    parent: Any = members
    for key in way:
        parent = parent[key]
    return members, parent, last


def ranks(*shards: File | bytes, **members: Any) -> Folder:
    """Make the folder of a set: a shard a rank and an index that fits them."""
    names = [f"rank-{rank:05}-of-{len(shards):05}.thaw" for rank in range(len(shards))]
    index = set_index(dict(zip(names, shards, strict=True)), **members)
    return {"snapshot.json": sealed(text(index)), **dict(zip(names, shards, strict=True))}


def sealed(index: bytes) -> bytes:
    """Put the checksum into the text of an index, where its digits are or would be."""
    member = b'"crc32c":"'
    before, found, after = index.partition(member)
    if not found:
        return index
    zeros, rest = b"00000000", after[8:]
    crc = crc32c(before + member + zeros + rest)
    return before + member + b"%08x" % crc + rest


def set_index(shards: Mapping[str, File | bytes], **members: Any) -> Object:
    """Return the members of `snapshot.json` for some shards."""
    listed = []
    for name, shard in shards.items():
        data = build(shard)
        digest = struct.unpack_from("<I", data.ljust(4096, b"\0"), 4092)[0]
        listed.append({"file": name, "nbytes": len(data), "root_digest": f"{digest:08x}"})
    plain_members: Object = {"major": 1, "minor": 0, "crc32c": "0" * 8}
    return plain_members | {"snapshot_id": SNAPSHOT_ID.hex(), "ranks": listed} | members


def rank_shard(
    rank: int, size: int = 2, places: Object | None = None, kind: str = "weights", **file: Any
) -> File:
    """Make the shard of one rank."""
    payload, storages = arena(pattern(24, f"rank {rank}"))
    said = manifest(
        kind=kind,
        shard={"rank": rank, "size": size} | (places or {}),
        storages=storages,
        tensors={"w": tensor("float32", (2, 3)), f"only.{rank}": tensor("uint8", (24,))},
    )
    return File(**({"manifest": text(said), "payload": payload} | file))


PAYLOAD, _STORAGES = arena(pattern(24))
PLAIN = manifest(storages=_STORAGES, tensors={"w": tensor("float32", (2, 3))})
