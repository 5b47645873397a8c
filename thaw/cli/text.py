"""Numbers and names as people read them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

MAX_SHOWN = 240
_DECIMAL = ("kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB")
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{word}": base**power
    for word, base in (("B", 1000), ("IB", 1024))
    for power, prefix in enumerate("KMGT", 1)
}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *((?:[KMGT]i?)?B|)", re.IGNORECASE | re.ASCII)
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escape(text: object) -> str:
    r"""Write control characters, direction overrides and lone surrogates as `\u{1b}`."""
    plain = str(text)
    if plain.isascii() and plain.isprintable() and "\\" not in plain:
        return plain
    return "".join(_escape_character(each) for each in plain)


def shorten(text: object, limit: int = MAX_SHOWN) -> str:
    """Escape a text, and leave out its middle where it is long."""
    shown = escape(text)
    if len(shown) <= limit:
        return shown
    half = (limit - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def size(nbytes: float) -> str:
    """Write a number of bytes in units of 1000."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in _DECIMAL:
        nbytes /= 1000
        if nbytes < 999.95 or unit == _DECIMAL[-1]:
            break
    return f"{nbytes:.1f} {unit}"


def exact_size(nbytes: int) -> str:
    """Write a number of bytes in units of 1000, and to the byte."""
    return f"{size(nbytes)} ({nbytes:,} bytes)" if nbytes >= 1000 else count(nbytes, "byte")


def power_size(nbytes: int) -> str:
    """Write a power of two of bytes in units of 1024."""
    step = min((nbytes.bit_length() - 1) // 10, len(_BINARY) - 1)
    return f"{nbytes >> (10 * step)} {_BINARY[step]}"


def parse_size(text: str) -> int | None:
    """Read a number of bytes, like 5GB, 1.5 GiB or 1000; None if it is none, or not positive."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        return None
    nbytes = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    return nbytes if nbytes > 0 else None


def count(number: int, word: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def ago(elapsed_s: float) -> str:
    """Write how long something was ago."""
    for word, seconds in (("days", 86400), ("h", 3600), ("min", 60)):
        if elapsed_s >= 2 * seconds:
            return f"{elapsed_s // seconds:,.0f} {word} ago"
    return f"{elapsed_s:.0f} s ago" if elapsed_s >= 1 else "now"


def shape(sizes: Iterable[int]) -> str:
    """Write a shape; that of a scalar in a word."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes)) or "scalar"


def _escape_character(each: str) -> str:
    if each == "\\":
        return "\\\\"
    return f"\\u{{{ord(each):x}}}" if unicodedata.category(each) in _UNSAFE else each
