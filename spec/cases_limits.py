"""The vectors of tensors far larger than their files: what a reader may refuse to copy."""

from __future__ import annotations

from math import prod

from vector_builder import File, tensor
from vector_case import Case, either, invalid, snapshot, valid

FILE_NBYTES = 8193
FLOOR = 1024 * FILE_NBYTES + 16777216


def _expanded(*sizes: int) -> File:
    """Make a file of 8193 bytes with tensors of these sizes, all of them one byte."""
    tensors = {f"t{i}": tensor("uint8", (size,), (0,)) for i, size in enumerate(sizes)}
    return snapshot(tensors, b"\x07")


def _claim(*shape: int) -> File:
    assert prod(shape) > 2**40
    return snapshot({"t": tensor("uint8", shape, (0,) * len(shape))}, b"\x07")


CASES: list[Case] = [
    valid("limit-floor", "CON-3", "one tensor of as many bytes as the floor", _expanded(FLOOR)),
    valid(
        "limit-floor-sum",
        "CON-3",
        "three tensors of as many bytes together as the floor",
        _expanded(FLOOR // 2, FLOOR // 4, FLOOR - FLOOR // 2 - FLOOR // 4),
    ),
    either("limit-above", "CON-3", "limit", "one byte more than the floor", _expanded(FLOOR + 1)),
    either(
        "limit-above-sum",
        "CON-3",
        "limit",
        "two tensors of one byte more than the floor together",
        _expanded(FLOOR // 2, FLOOR - FLOOR // 2 + 1),
    ),
    *invalid(
        "CON-3",
        "limit",
        {
            "2-62": ("2^62 bytes, which nobody can copy", _claim(2**31, 2**31)),
            "greatest": ("2^63 - 1 bytes", _claim(7**2 * 73 * 127 * 337, 92737 * 649657)),
        },
    ),
]
assert len(_expanded(1).build()) == FILE_NBYTES
