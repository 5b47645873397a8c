"""Opening one shard."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, TypeVar

from .checksum import crc32c
from .codes import format_error
from .collector import collector_paused
from .errors import naming
from .manifest import Manifest, parse_manifest
from .snapshot import Chunks, Digests, Snapshot
from .source import FileSource, Source
from .superblock import (
    DIGESTS,
    MANIFEST,
    PAYLOAD,
    SUPERBLOCK_NBYTES,
    Section,
    Superblock,
    parse_superblock,
)

_Source = TypeVar("_Source", bound=Source)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardFile(Snapshot):
    """A snapshot read from one `.thaw` file."""

    superblock: Superblock

    @property
    def payload_nbytes(self) -> int:
        return self.superblock.section(PAYLOAD).nbytes

    @classmethod
    def of(cls, source: Source, superblock: Superblock, body: Manifest, digests: Digests) -> Self:
        """Combine the parts of a shard."""
        return cls(
            path=source.path,
            format="thaw",
            sources=(source,),
            storages=body.storages,
            tensors=body.tensors,
            digests=(digests,),
            kind=body.kind,
            shard=body.shard,
            snapshot_id=superblock.snapshot_id.hex(),
            producer=body.producer,
            metadata=body.metadata,
            superblock=superblock,
        )


@dataclass(frozen=True, slots=True, eq=False)
class UnparsedShard:
    """A `.thaw` file whose payload may be read already, while nothing is known of its tensors.

    Attributes:
        digests: those of the payload; `digests.chunks` says where it lies.
        manifest: the text, with the CRC32C that the superblock says.
    """

    source: Source
    superblock: Superblock
    digests: Digests
    manifest: bytes = field(repr=False)

    def parse(self) -> ShardFile:
        """Check the manifest (phases 5 and 6).

        Raises:
            FormatError: it breaks a rule of the specification.
        """
        chunks = self.digests.chunks
        with collector_paused(), naming(self.source.path):
            body = parse_manifest(self.manifest, chunks.nbytes, origin=chunks.offset)
            return ShardFile.of(self.source, self.superblock, body, self.digests)


def open_shard(path: str | os.PathLike[str] | Source) -> ShardFile:
    """Open a `.thaw` file and check everything but the payload.

    Args:
        path: or a source, which is closed with the shard, or if it is none.

    Raises:
        FormatError: the file breaks a rule of the specification; `.code` and `.rule` say which.
        OSError: the file cannot be opened or read.
    """
    with closing_on_error(_source(path)) as source:
        return read_unparsed(source, read_superblock(source)).parse()


def open_unparsed(path: str | os.PathLike[str] | Source) -> UnparsedShard:
    """Open a `.thaw` file and check all that comes before its manifest is parsed.

    Raises:
        FormatError: as of `open_shard`.
        OSError: the file cannot be opened or read.
    """
    with closing_on_error(_source(path)) as source:
        return read_unparsed(source, read_superblock(source))


def _source(path: str | os.PathLike[str] | Source) -> Source:
    return FileSource(path) if isinstance(path, str | os.PathLike) else path


@contextmanager
def closing_on_error(source: _Source) -> Iterator[_Source]:
    """If the block fails, close a source and name it in the error."""
    try:
        with naming(source.path):
            yield source
    except BaseException:
        source.close()
        raise


def read_superblock(source: Source) -> Superblock:
    """Read and check the superblock (phases 1 to 3)."""
    return parse_superblock(source.read(0, SUPERBLOCK_NBYTES), source.nbytes)


def read_unparsed(source: Source, superblock: Superblock) -> UnparsedShard:
    """Read the manifest and the digest table, and check their CRC32C (phase 4)."""
    text = _read_section(source, superblock.section(MANIFEST), "manifest")
    table = _read_section(source, superblock.section(DIGESTS), "digests")
    values = array("I", table)
    if sys.byteorder == "big":
        values.byteswap()
    payload = superblock.section(PAYLOAD)
    chunks = Chunks(payload.offset, payload.nbytes, superblock.chunk_nbytes)
    return UnparsedShard(source, superblock, Digests(chunks, values), text)


def _read_section(source: Source, section: Section, name: str) -> bytes:
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
