"""The CRC32C of a message from those of its parts, without the bytes.

A CRC is the remainder of a message, taken as a polynomial over GF(2). To put n bytes behind a
message multiplies its polynomial by x to the power of 8n, so two CRCs are joined by one product.
Polynomials are ints of 32 bits; the highest bit, as CRC32C has it, is the coefficient of x^0.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0x82F63B78
_ONE, _X = 1 << 31, 1 << 30


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
