"""CRC32C of whole chunks from what batch after batch holds of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from thaw import Chunks, Digests, format_error
from thaw.cuda.joining import join


class ChunkDigests:
    """Joins the digests of runs, which come in file order.

    Attributes:
        whole: (chunk, CRC32C) of every chunk that is complete.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._crc = self._nbytes = 0
        self.whole: list[tuple[int, int]] = []

    def add(self, runs: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
        """Take (chunk, nbytes, CRC32C) of runs; return (chunk, CRC32C) of those now complete."""
        known = len(self.whole)
        for chunk, nbytes, crc in runs:
            self._crc = join(self._crc, crc, nbytes)
            self._nbytes += nbytes
            start, end = self._chunks.span(chunk)
            if self._nbytes == end - start:
                self.whole.append((chunk, self._crc))
                self._crc = self._nbytes = 0
        return self.whole[known:]


def check(found: Iterable[tuple[int, int]], digests: Digests, path: Path) -> None:
    """Compare chunks with what they should be; raise ChecksumError for the first that differs."""
    for chunk, crc in found:
        if crc != digests.values[chunk]:
            raise format_error(
                "chunk-checksum",
                f"a chunk's CRC32C is {crc:08x}, expected {digests.values[chunk]:08x}",
                path=path,
                offset=digests.chunks.span(chunk)[0],
            )
