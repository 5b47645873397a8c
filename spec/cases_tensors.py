"""The valid vectors of tensors: dtypes, views, strides and sizes."""

from __future__ import annotations

import struct
from typing import Any

from vector_builder import ELEMENT_NBYTES, File, arena, manifest, pattern, tensor, text
from vector_case import Case, snapshot, valid

MAX = 2**53 - 1
ODD_BYTES = {
    "bool": bytes((0, 1, 2, 0x80, 0xFF, 1)),
    "float16": bytes.fromhex("007e 017c fffc 0080 0100 ff7f"),
    "bfloat16": bytes.fromhex("c07f 817f ffff 0080 0100 807f"),
    "float32": struct.pack("<6I", 0x7FC00000, 0x7F800001, 0xFFC12345, 1 << 31, 1, 0x7F800000),
    "float64": struct.pack("<6Q", 0x7FF8 << 48, (0x7FF0 << 48) + 1, 2**64 - 1, 1 << 63, 1, 2),
    "float8_e4m3fn": bytes((0x7F, 0xFF, 0x80, 0, 0x7E, 1)),
    "float8_e4m3fnuz": bytes((0x80, 0xFF, 0x7F, 0, 0x7E, 1)),
    "float8_e5m2": bytes((0x7D, 0x7E, 0xFF, 0x7C, 0x80, 1)),
    "float8_e5m2fnuz": bytes((0x80, 0xFF, 0x7F, 0, 0x7E, 1)),
    "float8_e8m0fnu": bytes((0xFF, 0, 0x7F, 0x80, 1, 0xFE)),
    "complex64": struct.pack("<12I", *([0x7F800001, 0xFFC12345, 1 << 31] * 4)),
}


def _every_dtype() -> File:
    blobs, tensors = [], {}
    for index, (dtype, nbytes) in enumerate(ELEMENT_NBYTES.items()):
        blobs.append(ODD_BYTES.get(dtype, pattern(6 * nbytes, dtype)))
        tensors[dtype] = tensor(dtype, (2, 3), storage=index)
    return snapshot(tensors, *blobs)


def _views(dtype: str, nbytes: int, **views: tuple[Any, ...]) -> File:
    return snapshot({name: tensor(dtype, *view) for name, view in views.items()}, pattern(nbytes))


def _many() -> File:
    blobs = [pattern(1 + i % 7, f"tiny {i}") for i in range(50)]
    payload, storages = arena(*blobs)
    tensors = {
        f"layer.{i}.{end}": tensor("uint8", (len(blob),), storage=i)
        for i, blob in enumerate(blobs)
        for end in ("weight", "bias", "scale", "zero")
    }
    said = manifest(storages=storages, tensors=tensors)
    return File(manifest=text(said), payload=payload)


CASES: list[Case] = [
    valid(
        "every-dtype",
        "TEN-2",
        "every dtype, with NaN payloads, signalling NaNs, signed zeros, a bool byte of 2",
        _every_dtype(),
    ),
    valid(
        "every-dtype-reversed",
        "TEN-2 TEN-3",
        "scalars and transposed tensors of every dtype over one storage",
        snapshot(
            {f"{dtype}.t": tensor(dtype, (3, 2), (1, 3)) for dtype in ELEMENT_NBYTES}
            | {f"{dtype}.0": tensor(dtype, offset=16) for dtype in ELEMENT_NBYTES},
            pattern(96),
        ),
    ),
    valid(
        "zero-size",
        "TEN-7 STO-2 STO-3",
        "tensors without elements over storages of no bytes",
        snapshot(
            {
                "a": tensor("float32", (0,)),
                "b": tensor("bfloat16", (3, 0, 2), storage=1),
                "c": tensor("complex128", (0, 0), (0, 0), storage=0),
                "d": tensor("uint8", (), storage=2),
            },
            b"",
            b"",
            b"\x01",
        ),
    ),
    valid(
        "zero-size-at-end",
        "TEN-5 TEN-7",
        "tensors without elements that begin at the end of their storage",
        snapshot(
            {"a": tensor("float64", (0,), offset=16), "b": tensor("int64", (2,))}, pattern(16)
        ),
    ),
    valid(
        "zero-size-huge",
        "TEN-6 TEN-7",
        "a size of 0 beside sizes and strides whose product overflows",
        snapshot(
            {
                "a": tensor("complex128", (MAX, MAX, 0), (MAX, MAX, MAX)),
                "b": tensor("uint8", (0, MAX, MAX), (1, 1, 1)),
                "c": tensor("uint8", (MAX, 0), (MAX, 1)),
            },
            b"\x01",
        ),
    ),
    valid(
        "one-element-huge-stride",
        "TEN-6 TEN-7",
        "strides of dimensions of size 1 count for nothing",
        snapshot({"a": tensor("complex128", (1, 1, 1), (MAX, MAX, MAX))}, pattern(16)),
    ),
    valid(
        "scalars", "TEN-3", "scalars at several offsets", _views("int16", 8, a=(), b=((), (), 0, 6))
    ),
    valid(
        "tied", "TEN-7", "two names of one view", _views("float32", 48, a=((3, 4),), b=((3, 4),))
    ),
    valid(
        "overlapping-views",
        "TEN-7",
        "views that share some of their bytes",
        _views("int32", 64, a=((10,),), b=((10,), (1,), 0, 24), c=((2, 8),)),
    ),
    valid(
        "reinterpreted",
        "TEN-5",
        "the same bytes as several dtypes",
        snapshot(
            {dtype: tensor(dtype, (64 // nbytes,)) for dtype, nbytes in ELEMENT_NBYTES.items()},
            pattern(64),
        ),
    ),
    valid(
        "transposed",
        "TEN-3 TEN-7",
        "strides in every order of the dimensions",
        _views(
            "uint16",
            48,
            a=((4, 3, 2), (6, 2, 1)),
            b=((2, 3, 4), (1, 2, 6)),
            c=((3, 2, 4), (2, 1, 6)),
            d=((3, 4), (8, 2), 0, 2),
        ),
    ),
    valid(
        "expanded",
        "TEN-3 TEN-7",
        "strides of 0, in one dimension and in all",
        _views("float32", 16, a=((5, 4), (0, 1)), b=((4, 5), (1, 0)), c=((7, 7), (0, 0), 0, 12)),
    ),
    valid(
        "expanded-many",
        "TEN-7 CON-3",
        "a tensor of many more elements than the file has bytes, within the limit of section 13",
        _views("uint8", 3, a=((300, 300), (0, 0), 0, 2)),
    ),
    valid(
        "expanded-to-the-end",
        "TEN-7",
        "strides of 0 beside others: more elements than bytes, and fewer, up to the last byte",
        _views(
            "uint8",
            512,
            a=((4, 512), (0, 1)),
            b=((2, 4), (511, 0)),
            c=((4, 103), (0, 5)),
            d=((1, 2, 300), (0, 511, 0)),
        ),
    ),
    valid(
        "windows",
        "TEN-7",
        "elements that overlap each other in one tensor",
        _views("int16", 24, a=((8, 3), (1, 1)), b=((3, 3, 3), (2, 1, 2), 0, 2)),
    ),
    valid(
        "dimensions-64",
        "TEN-3",
        "64 dimensions, with elements and as good as a scalar",
        snapshot(
            {
                "a": tensor("uint8", (1,) * 30 + (2,) + (1,) * 30 + (3, 1, 2)),
                "b": tensor("uint8", (1,) * 64, (0,) * 64, offset=3),
            },
            pattern(12),
        ),
    ),
    valid("many-tensors", "CON-2", "200 tensors over 50 storages", _many()),
]
