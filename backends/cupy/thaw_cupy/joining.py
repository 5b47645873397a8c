"""The CRC32C of a chunk from those of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thaw.cuda.joining import join

from .pieces import ChunkPart


class Joiner:
    """Joins the digests of parts of chunks, which come in the order of the file."""

    def __init__(self) -> None:
        self._crc = 0

    def add(self, parts: Sequence[ChunkPart], crcs: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Take digests of parts; yield index and digest of each chunk that ends with one."""
        for part, crc in zip(parts, crcs, strict=True):
            self._crc = join(self._crc, crc, part.nbytes)
            if part.is_last:
                yield part.index, self._crc
                self._crc = 0
