"""CRC32C of a message from those of its parts, without the bytes."""

from __future__ import annotations

from functools import lru_cache

# Polynomials over GF(2) modulo Castagnoli's, bit 31 the coefficient of x^0 and bit 0 that of x^31.
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31
_BYTE = _ONE >> 8


def combine(first: int, second: int, second_nbytes: int) -> int:
    """Return the CRC32C of two parts in a row.

    Args:
        first: the CRC32C of the first part; 0 if it is empty.
        second: the CRC32C of the second part.
        second_nbytes: how long the second part is.
    """
    return _product(first, _shift(second_nbytes)) ^ second if first else second


@lru_cache(maxsize=256)
def _shift(nbytes: int) -> int:
    """Return x to the power of the bits in `nbytes`."""
    result, factor = _ONE, _BYTE
    while nbytes:
        if nbytes & 1:
            result = _product(result, factor)
        factor = _product(factor, factor)
        nbytes >>= 1
    return result


def _product(a: int, b: int) -> int:
    result = 0
    for power in range(31, -1, -1):
        if a >> power & 1:
            result ^= b
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return result
