"""The invalid vectors of the manifest's members, storages and tensors."""

from __future__ import annotations

from typing import Any

from vector_builder import File, Object, arena, manifest, pattern, tensor, text
from vector_case import PLAIN, Case, Variants, changed, empty, invalid, plain, removed

MAX = 2**53 - 1
AXIS = {"rank": 0, "size": 1}


def _shard(**members: Any) -> File:
    return plain(manifest=text(PLAIN | {"shard": {"rank": 0, "size": 1} | members}))


def _storages(*ranges: tuple[Any, Any], payload: int = 1024, tensors: Object | None = None) -> File:
    listed = [{"offset": offset, "nbytes": nbytes} for offset, nbytes in ranges]
    said = manifest(storages=listed, tensors=tensors or {})
    return File(manifest=text(said), payload=pattern(payload))


def _tensor(dtype: str, *view: Any, nbytes: int = 512, **members: Any) -> File:
    payload, listed = arena(pattern(nbytes), pattern(512, "other"))
    said = manifest(storages=listed, tensors={"w": tensor(dtype, *view, **members)})
    return File(manifest=text(said), payload=payload)


def _named(name: str) -> File:
    return plain(manifest=text(PLAIN | {"tensors": {name: PLAIN["tensors"]["w"]}}))


def _nameless(name: str) -> str:
    return name.replace("tensors.w", "tensor").replace("storages.0", "storage").replace(".", "-")


def _without_storages() -> File:
    members = manifest()
    del members["storages"]
    return empty(manifest=text(members))


MISSING: Variants = {
    **{
        _nameless(path): (f"no member {path}", removed(path))
        for path in (
            "kind",
            "producer",
            "producer.name",
            "producer.version",
            "shard",
            "shard.rank",
            "shard.size",
            "tensors",
            "metadata",
            "tensors.w.dtype",
            "tensors.w.shape",
            "tensors.w.stride",
            "tensors.w.storage",
            "tensors.w.offset",
            "storages.0.offset",
            "storages.0.nbytes",
        )
    },
    "storages": ("no member storages", _without_storages()),
    "tp-rank": ("no rank in tp", _shard(tp={"size": 1})),
    "pp-size": ("no size in pp", _shard(pp={"rank": 0})),
    "ep-empty": ("neither rank nor size in ep", _shard(ep={})),
    "all": ("an empty object, the shortest manifest there can be", empty(manifest=b"{}")),
    "case": (
        "a member name in upper case",
        empty(manifest=text(manifest()).replace(b"kind", b"Kind")),
    ),
}

TYPES: dict[str, list[Any]] = {
    "kind": [None, 1, ["weights"]],
    "producer": [None, "vectors", []],
    "producer.name": [None, 1],
    "producer.version": [None, 1, {}],
    "shard": [None, [0, 1], 0],
    "shard.rank": [None, False, "0", []],
    "shard.size": [None, True, "1"],
    "shard.tp": [None, [], 0, False],
    "shard.pp": [None, "0"],
    "shard.ep": [None, [AXIS]],
    "storages": [None, {}, 1],
    "storages.0": [None, [0, 24], 24],
    "storages.0.offset": [None, False, "0"],
    "storages.0.nbytes": [None, "24", [24]],
    "tensors": [None, [], "w"],
    "tensors.w": [None, [], "float32", 0],
    "tensors.w.dtype": [None, 1, ["float32"]],
    "tensors.w.shape": [None, 6, "23", {}],
    "tensors.w.shape.0": [None, "2", True, [2]],
    "tensors.w.stride": [None, 1, {}],
    "tensors.w.stride.1": [None, "1", True],
    "tensors.w.storage": [None, False, "0"],
    "tensors.w.offset": [None, False, "0"],
    "metadata": [None, [], "", 0],
}


def _type_name(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


BAD_TYPES: Variants = {
    f"{_nameless(path)}-{_type_name(value)}": (
        f"{path} of the type {_type_name(value)}",
        changed(path, value),
    )
    for path, values in TYPES.items()
    for value in values
} | {
    "tp-rank-boolean": ("a boolean rank in tp", _shard(tp={"rank": False, "size": 1})),
    "ep-size-null": ("a null size in ep", _shard(ep={"rank": 0, "size": None})),
    "pp-rank-string": ("a rank in pp that is a string", _shard(pp={"rank": "0", "size": 1})),
    "storage-second-null": (
        "a null after a storage",
        plain(manifest=text(PLAIN | {"storages": [*PLAIN["storages"], None]})),
    ),
}

SHARDS: Variants = {
    f"{name}-{rank}-of-{size}": (f"rank {rank} of {size} in {name}", _shard(**members))
    for rank, size in ((0, 0), (1, 1), (-1, 1), (0, -1), (0, 100000), (MAX, MAX))
    for name, members in (
        ("shard", {"rank": rank, "size": size}),
        ("tp", {"tp": {"rank": rank, "size": size}}),
    )
} | {
    "pp": ("rank 2 of 2 in pp", _shard(tp=AXIS, pp={"rank": 2, "size": 2}, ep=AXIS)),
    "ep": ("rank 0 of 0 in ep", _shard(tp=AXIS, pp=AXIS, ep={"rank": 0, "size": 0})),
}

BAD_STORAGES = [
    *invalid(
        "STO-1",
        "misaligned-storage",
        {
            "1": ("a storage at 1", _storages((1, 16))),
            "511": ("a storage at 511", _storages((511, 16))),
            "256": ("a storage at 256", _storages((256, 16))),
            "empty": ("a storage of no bytes at 8", _storages((8, 0))),
            "second": ("the second storage at 520", _storages((0, 512), (520, 16))),
            "negative": ("a storage at -512", _storages((-512, 512))),
            "negative-1": ("a storage of no bytes at -1", _storages((-1, 0))),
        },
    ),
    *invalid(
        "STO-2 CON-3",
        "storage-out-of-bounds",
        {
            "by-1": ("a storage one byte longer than the payload", _storages((0, 1025))),
            "second-by-1": (
                "the second storage one byte too long",
                _storages((0, 512), (512, 513)),
            ),
            "begins-after": ("an empty storage after the payload", _storages((1536, 0))),
            "no-payload": ("a byte of a payload of no bytes", _storages((0, 1), payload=0)),
            "short-tail": (
                "an aligned storage after a short payload",
                _storages((512, 0), payload=511),
            ),
            "negative": ("a storage of -1 bytes", _storages((0, -1))),
            "negative-second": ("a storage of -512 bytes", _storages((0, 512), (512, -512))),
            "huge": ("a storage of 2^53 - 1 bytes", _storages((0, MAX))),
            "far": ("a storage at 2^53 - 512", _storages((2**53 - 512, MAX))),
        },
    ),
    *invalid(
        "STO-3",
        "storage-overlap",
        {
            "by-1": ("a storage over the last byte of another", _storages((0, 513), (512, 512))),
            "order": ("storages out of order", _storages((512, 512), (0, 512))),
            "same": ("a storage twice", _storages((0, 512), (0, 512))),
            "inside": ("a storage inside another", _storages((0, 1024), (512, 16))),
            "empty-inside": ("an empty storage inside another", _storages((0, 1024), (512, 0))),
            "empty-order": ("an empty storage before one at 0", _storages((512, 0), (0, 512))),
            "empty-start": (
                "an empty storage at the start of another",
                _storages((0, 512), (0, 0)),
            ),
        },
    ),
]

BAD_NAMES: Variants = {
    "empty": ("an empty name", _named("")),
    "4097": ("a name of 4097 bytes", _named("n" * 4097)),
    "4098": ("a name of 1366 characters of three bytes", _named("\u5c42" * 1366)),
    "emoji": ("a name of 1025 characters of four bytes", _named("\U0001f600" * 1025)),
    "nul": ("a name that is NUL", _named("\0")),
    "nul-inside": ("a name with a NUL", _named("a\0b")),
    "nul-last": ("a name that ends with a NUL", _named("w\0")),
}

BAD_DTYPES: Variants = {
    name or "empty": (f"the dtype {name!r}", changed("tensors.w.dtype", name))
    for name in ("", "float128", "Float32", "F32", "float", "int4", "float8_e4m3", "qint8")
} | {
    "prefixed": ("the dtype 'torch.float32'", changed("tensors.w.dtype", "torch.float32")),
    "spaced": ("the dtype 'float32 '", changed("tensors.w.dtype", "float32 ")),
    "nul": ("the dtype 'float32' and a NUL", changed("tensors.w.dtype", "float32\0")),
    "empty-tensor": (
        "an unknown dtype of a tensor without elements",
        changed("tensors.w", tensor("uint8", (0,)) | {"dtype": "uint128"}),
    ),
}

BAD_SHAPES: Variants = {
    "stride-short": ("two sizes and one stride", _tensor("uint8", (2, 3), (1,))),
    "stride-long": ("one size and two strides", _tensor("uint8", (2,), (1, 1))),
    "stride-none": ("one size and no stride", _tensor("uint8", (2,), ())),
    "scalar-stride": ("a scalar with a stride", _tensor("uint8", (), (1,))),
    "65": ("65 dimensions", _tensor("uint8", (1,) * 65)),
    "1000-empty": ("1000 dimensions of size 0", _tensor("uint8", (0,) * 1000)),
    "negative-size": ("a size of -1", _tensor("uint8", (-1,), (1,))),
    "negative-sizes": ("two sizes of -2", _tensor("uint8", (-2, -2), (2, 1))),
    "negative-stride": ("a stride of -1", _tensor("uint8", (4,), (-1,), offset=3)),
    "negative-stride-1": ("a stride of -1 in a size of 1", _tensor("uint8", (1,), (-1,))),
    "negative-empty": ("a size of -1 beside one of 0", _tensor("uint8", (0, -1), (1, 1))),
    "negative-stride-empty": ("a stride of -1 in a size of 0", _tensor("uint8", (0,), (-1,))),
}

BAD_INDICES: Variants = {
    "after": ("storage 2 of 2", _tensor("uint8", (1,), storage=2)),
    "negative": ("storage -1", _tensor("uint8", (1,), storage=-1)),
    "far": ("storage 2^53 - 1", _tensor("uint8", (1,), storage=MAX)),
    "empty": ("storage 2 of 2 for a tensor without elements", _tensor("uint8", (0,), storage=2)),
    "none": (
        "storage 0 of none",
        empty(manifest=text(manifest(tensors={"w": tensor("uint8", (0,))}))),
    ),
    "2-32": ("storage 2^32", _tensor("uint8", (1,), storage=2**32)),
}

MISALIGNED: Variants = {
    f"{dtype}-{offset}": (
        f"a {dtype} at {offset}",
        _tensor(dtype, (1,), offset=offset),
    )
    for dtype, offset in (
        ("float16", 1),
        ("bfloat16", 3),
        ("float32", 2),
        ("complex32", 2),
        ("int64", 4),
        ("complex64", 4),
        ("complex128", 8),
        ("float32", -4),
        ("uint8", -1),
    )
} | {
    "empty": ("a tensor without elements at 1", _tensor("float32", (0,), offset=1)),
    "empty-negative": ("a tensor without elements at -4", _tensor("float32", (0,), offset=-4)),
    "scalar": ("a scalar at 6", _tensor("float32", (), offset=6)),
}

OVERFLOW: Variants = {
    "2-63": ("2^63 elements", _tensor("uint8", (2**31, 2**32), (0, 0))),
    "2-63-bytes": ("2^62 elements of 2 bytes", _tensor("bfloat16", (2**31, 2**31), (0, 0))),
    "2-64": ("2^64 elements, which wrap to none", _tensor("uint8", (2**32, 2**32), (0, 0))),
    "2-64-bytes": ("2^60 elements of 16 bytes", _tensor("complex128", (2**30, 2**30), (0, 0))),
    "wraps-to-1": (
        "elements whose number wraps to 1",
        _tensor("uint8", (274177, 67280421310721), (0, 0)),
    ),
    "great": ("the greatest sizes", _tensor("uint8", (MAX, MAX), (0, 0))),
    "greatest": ("64 of the greatest sizes", _tensor("float64", (MAX,) * 64, (0,) * 64)),
    "stride": ("an extent of more than 2^63", _tensor("uint8", (2**13, 2), (2**51, 1))),
    "stride-wraps": ("an extent that wraps to 1", _tensor("uint8", (2**14 + 1,), (2**50,))),
    "stride-bytes": (
        "an extent of more than 2^63 for its elements of 16 bytes",
        _tensor("complex128", (2**8 + 1,), (2**51,)),
    ),
    "stride-sum": (
        "an extent of more than 2^63 by many strides",
        _tensor("float64", (33,) * 11, (MAX,) * 11),
    ),
}

OUT_OF_BOUNDS: Variants = {
    "by-1": ("one byte more than its storage", _tensor("uint8", (513,))),
    "offset-by-1": ("its last byte after its storage", _tensor("uint8", (512,), offset=1)),
    "scalar": ("a scalar after the end of its storage", _tensor("float32", (), offset=512)),
    "by-1-of-16": ("15 of 16 bytes inside", _tensor("complex128", (1,), nbytes=15)),
    "next-storage": ("an end in the storage after its own", _tensor("float32", (200,))),
    "stride": ("a last element outside", _tensor("int16", (2, 128), (129, 1), offset=0)),
    "transposed": ("a transposed last element outside", _tensor("uint8", (5, 103), (1, 5))),
    "expanded": ("an expanded element outside", _tensor("uint8", (9, 9), (0, 0), offset=512)),
    "stride-2": ("a stride of 2^53 - 1", _tensor("uint8", (2,), (MAX,))),
    "offset-far": ("an offset of 2^53 - 1", _tensor("uint8", (1,), offset=MAX)),
    "empty-by-1": ("no elements, one byte after its storage", _tensor("uint8", (0,), offset=513)),
    "empty-far": ("no elements, far away", _tensor("uint8", (3, 0), offset=MAX)),
    "empty-storage": ("an element of a storage of no bytes", _tensor("bool", (), nbytes=0)),
    "expanded-stride": (
        "a stride of 0 beside one that leads outside, with fewer elements than the storage has",
        _tensor("uint8", (4, 100), (0, 6)),
    ),
    "expanded-stride-last": (
        "a stride that leads one byte outside beside one of 0",
        _tensor("uint8", (2, 4), (512, 0)),
    ),
    "expanded-once": (
        "a stride of 0 in a size of 1 beside one that leads outside",
        _tensor("int16", (1, 3), (0, 128), offset=2),
    ),
    "windows": ("windows over each other, the last outside", _tensor("uint8", (500, 14), (1, 1))),
    "great": ("2^62 bytes", _tensor("uint8", (2**31, 2**31))),
    "greatest": ("2^63 - 1 bytes", _tensor("uint8", (7**2 * 73 * 127 * 337, 92737 * 649657))),
}

CASES: list[Case] = [
    *invalid("MAN-1", "missing-member", MISSING),
    *invalid("MAN-2", "bad-member-type", BAD_TYPES),
    *invalid("MAN-5", "bad-shard", SHARDS),
    *BAD_STORAGES,
    *invalid("TEN-1", "bad-name", BAD_NAMES),
    *invalid("TEN-2", "unknown-dtype", BAD_DTYPES),
    *invalid("TEN-3", "bad-shape", BAD_SHAPES),
    *invalid("TEN-4", "bad-storage-index", BAD_INDICES),
    *invalid("TEN-5", "misaligned-tensor", MISALIGNED),
    *invalid("TEN-6 CON-3", "tensor-overflow", OVERFLOW),
    *invalid("TEN-7", "tensor-out-of-bounds", OUT_OF_BOUNDS),
]
