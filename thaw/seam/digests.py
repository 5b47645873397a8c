"""The CRC32C of chunks from those of their parts, without the bytes.

A CRC is the remainder of a message, taken as a polynomial over GF(2). To put n bytes behind a
message multiplies its polynomial by x to the power of 8n, so two CRCs are joined by one product.
Polynomials are ints of 32 bits; the highest bit, as CRC32C has it, is the coefficient of x^0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from thaw_format import Chunks, Digests, format_error

_POLYNOMIAL = 0x82F63B78
_ONE, _X = 1 << 31, 1 << 30


class ChunkDigests:
    """Joins the digests of parts of chunks, which come in file order."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._crc = self._nbytes = 0

    def add(self, parts: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
        """Take (index of the chunk, nbytes, CRC32C) of parts.

        Yields:
            Index and CRC32C of each chunk that is whole with one.
        """
        for index, nbytes, crc in parts:
            self._crc = join(self._crc, crc, nbytes)
            self._nbytes += nbytes
            start, end = self._chunks.span(index)
            if self._nbytes == end - start:
                yield index, self._crc
                self._crc = self._nbytes = 0


def check_chunk(index: int, crc: int, digests: Digests, path: Path) -> None:
    """Compare the CRC32C of a chunk with what it should be.

    Raises:
        ChecksumError: they differ; `.offset` is the chunk's first byte in the file.
    """
    expected = digests.values[index]
    if crc != expected:
        raise format_error(
            "chunk-checksum",
            f"a chunk's CRC32C is {crc:08x}, expected {expected:08x}",
            path=path,
            offset=digests.chunks.span(index)[0],
        )


def join(crc: int, behind: int, behind_nbytes: int) -> int:
    """Return the CRC32C of a message and the one behind it from the CRC32C of each."""
    if not crc:  # that of no bytes at all, for one
        return behind
    return _times(crc, _power_of_x(8 * behind_nbytes)) ^ behind


@lru_cache(maxsize=64)
def _power_of_x(exponent: int) -> int:
    power, square = _ONE, _X
    while exponent:
        if exponent & 1:
            power = _times(power, square)
        square = _times(square, square)
        exponent >>= 1
    return power


def _times(a: int, b: int) -> int:
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
