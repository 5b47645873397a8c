"""Writing one shard: header, payload, seal."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from .checksum import crc32c
from .codes import format_error
from .collector import collector_paused
from .manifest import Manifest, serialize_manifest
from .sealing import flush, sealed, write_at
from .snapshot import Chunks, Shard
from .source import FileTarget
from .strict_json import JSON
from .superblock import (
    DEFAULT_CHUNK_NBYTES,
    DIGESTS,
    MANIFEST,
    MAPPING_ALIGNMENT,
    MAX_CHUNK_NBYTES,
    MAX_MANIFEST_NBYTES,
    MIN_CHUNK_NBYTES,
    PAYLOAD,
    PAYLOAD_ALIGNMENT,
    SECTION_ALIGNMENT,
    SUPERBLOCK_NBYTES,
    Section,
    Superblock,
    align,
    serialize_superblock,
)

if TYPE_CHECKING:
    from .layout import Layout

PayloadWriter: TypeAlias = "Callable[[FileTarget, Layout, Chunks], Sequence[int]]"
"""Writes the storages of a layout (gaps are zero) and returns the CRC32C of every chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a shard says of itself beside its tensors."""

    kind: str = "weights"
    shard: Shard = Shard()
    snapshot_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    producer: Mapping[str, JSON] = field(default_factory=dict)
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    chunk_nbytes: int = DEFAULT_CHUNK_NBYTES


def write_shard(
    path: str | os.PathLike[str],
    layout: Layout,
    description: Description,
    write_payload: PayloadWriter,
) -> Superblock:
    """Write a `.thaw` file: payload first, superblock last, then its name.

    Raises:
        FormatError: names or metadata cannot be said in the format.
        ValueError: `write_payload` returned no digest of 32 bits for each chunk; an existing file
            is untouched.
        OSError: the file cannot be written; an existing one is untouched.
    """
    _check_chunk_nbytes(description.chunk_nbytes)
    with collector_paused():
        manifest = _serialize(layout, description)
    chunks = _place(len(manifest), layout.payload_nbytes, description.chunk_nbytes)
    with sealed(path) as target:
        os.ftruncate(target.fileno(), chunks.offset + chunks.nbytes)
        table = _serialize_digests(write_payload(target, layout, chunks), chunks)
        write_at(target, manifest, SUPERBLOCK_NBYTES)
        write_at(target, table, _digests_offset(len(manifest)))
        flush(target)
        superblock = _superblock(manifest, table, chunks, description)
        write_at(target, serialize_superblock(superblock), 0)
    return superblock


def _serialize(layout: Layout, description: Description) -> bytes:
    manifest = serialize_manifest(
        Manifest(
            layout.storages,
            layout.tensors,
            description.kind,
            description.producer,
            description.shard,
            description.metadata,
        ),
        layout.payload_nbytes,
    )
    if len(manifest) > MAX_MANIFEST_NBYTES:
        raise format_error("bad-manifest-size", f"a manifest of {len(manifest)} bytes is too long")
    return manifest


def _serialize_digests(values: Sequence[int], chunks: Chunks) -> bytes:
    """Serialize the digests of a payload, which others computed."""
    check_digests(values, chunks)
    return b"".join(value.to_bytes(4, "little") for value in values)


def check_digests(values: Sequence[int], chunks: Chunks) -> None:
    """Check that there is a digest for each chunk.

    Raises:
        ValueError: there are more, or fewer, or one is no integer of 32 bits.
    """
    if len(values) != len(chunks):
        raise ValueError(f"{len(values)} digests for {len(chunks)} chunks")
    for index, value in enumerate(values):
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise ValueError(f"the digest of chunk {index} is {value!r}, no integer of 32 bits")


def _check_chunk_nbytes(nbytes: int) -> None:
    if nbytes & (nbytes - 1) or not MIN_CHUNK_NBYTES <= nbytes <= MAX_CHUNK_NBYTES:
        raise ValueError(f"chunk_nbytes is {nbytes}, not a power of two from 4096 to 2^30")


def _place(manifest_nbytes: int, payload_nbytes: int, chunk_nbytes: int) -> Chunks:
    # A payload of whole pages lets direct I/O read and write its end like the rest.
    nbytes = align(payload_nbytes, PAYLOAD_ALIGNMENT)
    header = _digests_offset(manifest_nbytes) + 4 * -(-nbytes // chunk_nbytes)
    return Chunks(align(header, MAPPING_ALIGNMENT), nbytes, chunk_nbytes)


def _digests_offset(manifest_nbytes: int) -> int:
    return align(SUPERBLOCK_NBYTES + manifest_nbytes, SECTION_ALIGNMENT)


def _superblock(
    manifest: bytes, table: bytes, chunks: Chunks, description: Description
) -> Superblock:
    after = _digests_offset(len(manifest))
    return Superblock(
        file_nbytes=chunks.offset + chunks.nbytes,
        snapshot_id=description.snapshot_id,
        sections=(
            Section(MANIFEST, SUPERBLOCK_NBYTES, len(manifest), crc32c(manifest)),
            Section(DIGESTS, after, len(table), crc32c(table)),
            Section(PAYLOAD, chunks.offset, chunks.nbytes),
        ),
        chunk_nbytes=description.chunk_nbytes,
    )
