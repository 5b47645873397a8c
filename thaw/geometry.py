"""How the elements of a strided tensor lie in memory."""

from __future__ import annotations

from thaw_format import TensorSpec


def normal(spec: TensorSpec) -> tuple[tuple[int, int], ...]:
    """Describe a layout without the dimensions of size 1, whose strides mean nothing."""
    return tuple(
        (size, step) for size, step in zip(spec.shape, spec.stride, strict=True) if size != 1
    )


def expanded(spec: TensorSpec) -> list[bool]:
    """Say of each dimension whether all its indices are the same elements."""
    return [size > 1 and step == 0 for size, step in zip(spec.shape, spec.stride, strict=True)]


def covers(spec: TensorSpec) -> bool:
    """Say whether every byte of the extent belongs to an element."""
    reach = 1
    for step, size in sorted((step, size) for size, step in normal(spec)):
        if step > reach:
            return False
        reach += step * (size - 1)
    return True


def distinct(spec: TensorSpec) -> bool:
    """Say whether no two elements share memory, but for those of expanded dimensions."""
    reach = 1
    for step, size in sorted((step, size) for size, step in normal(spec) if step):
        if step < reach:
            return False
        reach += step * (size - 1)
    return True
