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


def apart(one: TensorSpec, two: TensorSpec) -> bool:
    """Say whether two views of a storage surely share no byte; columns of a matrix do not."""
    start = min(one.offset, two.offset)
    pair = [
        (spec.offset - start, sorted(_steps(spec), reverse=True), spec.itemsize)
        for spec in (one, two)
    ]
    while True:
        spans = sorted((begin, begin + _reach(steps, size)) for begin, steps, size in pair)
        if spans[0][1] <= spans[1][0]:
            return True
        pitch = max((steps[0][0] for _, steps, _ in pair if steps), default=0)
        if not pitch:
            return False
        # Within each multiple of the pitch both look the same, if neither reaches into the next.
        pair = [
            (begin % pitch, [each for each in steps if each[0] != pitch], size)
            for begin, steps, size in pair
        ]
        if any(begin + _reach(steps, size) > pitch for begin, steps, size in pair):
            return False


def _steps(spec: TensorSpec) -> list[tuple[int, int]]:
    """List the steps in bytes of dimensions that move, and the sizes."""
    return [(step * spec.itemsize, size) for size, step in normal(spec) if step]


def _reach(steps: list[tuple[int, int]], itemsize: int) -> int:
    return itemsize + sum(step * (size - 1) for step, size in steps)
