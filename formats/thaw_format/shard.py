"""Opening one shard."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from .checksum import crc32c
from .codes import format_error
from .collector import collector_paused
from .errors import naming
from .manifest import Manifest, parse_manifest
from .snapshot import Chunks, Digests, Snapshot
from .source import FileSource
from .superblock import (
    DIGESTS,
    MANIFEST,
    PAYLOAD,
    SUPERBLOCK_NBYTES,
    Section,
    Superblock,
    parse_superblock,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardFile(Snapshot):
    """A snapshot read from one `.thaw` file."""

    superblock: Superblock

    @classmethod
    def of(cls, source: FileSource, superblock: Superblock, body: Manifest, table: bytes) -> Self:
        """Combine the parts of a shard."""
        payload = superblock.section(PAYLOAD)
        values = array("I", table)
        if sys.byteorder == "big":
            values.byteswap()
        return cls(
            path=source.path,
            format="thaw",
            sources=(source,),
            storages=body.storages,
            tensors=body.tensors,
            digests=(
                Digests(Chunks(payload.offset, payload.nbytes, superblock.chunk_nbytes), values),
            ),
            kind=body.kind,
            shard=body.shard,
            snapshot_id=superblock.snapshot_id.hex(),
            producer=body.producer,
            metadata=body.metadata,
            superblock=superblock,
        )


def open_shard(path: str | os.PathLike[str]) -> ShardFile:
    """Open a `.thaw` file and check everything but the payload.

    Raises:
        FormatError: the file breaks a rule of the specification; `.code` and `.rule` say which.
        OSError: the file cannot be opened or read.
    """
    with opening(path) as source:
        return read_shard(source, read_superblock(source))


@contextmanager
def opening(path: str | os.PathLike[str]) -> Iterator[FileSource]:
    """Open a source; if the block fails, close it and name it in the error."""
    source = FileSource(path)
    try:
        with naming(path):
            yield source
    except BaseException:
        source.close()
        raise


def read_superblock(source: FileSource) -> Superblock:
    """Read and check the superblock (phases 1 to 3)."""
    return parse_superblock(source.read(0, SUPERBLOCK_NBYTES), source.nbytes)


def read_shard(source: FileSource, superblock: Superblock) -> ShardFile:
    """Read and check the manifest and the digest table (phases 4 to 6)."""
    manifest, digests = superblock.section(MANIFEST), superblock.section(DIGESTS)
    text = _read_section(source, manifest, "manifest")
    table = _read_section(source, digests, "digests")
    with collector_paused():
        payload = superblock.section(PAYLOAD)
        body = parse_manifest(text, payload.nbytes, origin=payload.offset)
        return ShardFile.of(source, superblock, body, table)


def _read_section(source: FileSource, section: Section, name: str) -> bytes:
    data = source.read(section.offset, section.nbytes)
    if len(data) < section.nbytes:
        raise format_error(
            "truncated-file", "the file ended while it was read", offset=section.offset
        )
    if (found := crc32c(data)) != section.crc32c:
        raise format_error(
            f"{name}-checksum",
            f"the {name}'s CRC32C is {found:08x}, expected {section.crc32c:08x}",
            offset=section.offset,
        )
    return data
