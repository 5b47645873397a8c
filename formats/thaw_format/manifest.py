"""The manifest: storages, tensors and the shard they belong to (specification, sections 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .codes import format_error
from .columns import storages_of, tensors_of
from .dtypes import ITEMSIZES
from .errors import FormatError
from .limits import MAX_DIMENSIONS, MAX_EXTENT, MAX_NAME_NBYTES, MAX_RANKS
from .snapshot import RankOf, Shard, Storage, TensorSpec
from .strict_json import JSON, dump_json, parse_json
from .superblock import STORAGE_ALIGNMENT

_AXES = ("tp", "pp", "ep")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The JSON document of a shard; storages count from the `origin` that it was parsed with."""

    storages: tuple[Storage, ...]
    tensors: Mapping[str, TensorSpec]
    kind: str
    producer: Mapping[str, JSON]
    shard: Shard
    metadata: Mapping[str, JSON]


def serialize_manifest(manifest: Manifest, payload_nbytes: int) -> bytes:
    """Write a manifest as JSON, and prove that a reader will accept it.

    Raises:
        FormatError: something in it cannot be said in the format, with the code of the rule.
    """
    shard = {key: value for key, value in asdict(manifest.shard).items() if value is not None}
    data = dump_json(
        {
            "kind": manifest.kind,
            "producer": dict(manifest.producer),
            "shard": shard,
            "metadata": dict(manifest.metadata),
            "storages": [{"offset": s.offset, "nbytes": s.nbytes} for s in manifest.storages],
            "tensors": {name: _tensor_json(spec) for name, spec in manifest.tensors.items()},
        }
    )
    parse_manifest(data, payload_nbytes)
    return data


def _tensor_json(spec: TensorSpec) -> dict[str, JSON]:
    return {
        "dtype": spec.dtype_name,
        "shape": list(spec.shape),
        "stride": list(spec.stride),
        "storage": spec.storage,
        "offset": spec.offset,
    }


def parse_manifest(data: bytes, payload_nbytes: int, *, origin: int = 0) -> Manifest:
    """Parse a manifest, checking the rules JSON-*, MAN-*, STO-* and TEN-*.

    Args:
        origin: what offsets of storages are to count from, given as the payload's offset there.

    Raises:
        FormatError: with the code of the rule that is broken.
    """
    root = parse_json(data)
    producer = _member(root, "producer", dict, "the manifest")
    _member(producer, "name", str, "producer")
    _member(producer, "version", str, "producer")
    kind = _member(root, "kind", str, "the manifest")
    metadata = _member(root, "metadata", dict, "the manifest")
    shard = _shard(_member(root, "shard", dict, "the manifest"))
    entries = _member(root, "storages", list, "the manifest")
    storages = storages_of(entries, payload_nbytes, origin)
    if storages is None:
        storages = _storages(entries, payload_nbytes, origin)
    named = _member(root, "tensors", dict, "the manifest")
    tensors = tensors_of(named, storages)
    if tensors is None:
        tensors = {name: _tensor(name, value, storages) for name, value in named.items()}
    return Manifest(storages, tensors, kind, producer, shard, metadata)


def _member(parent: dict[str, Any], name: str, kind: type, where: str) -> Any:
    try:
        value = parent[name]
    except KeyError:
        raise format_error("missing-member", f"{where} has no member {name!r}") from None
    if type(value) is not kind:
        raise _bad_type(f"{where}: {name!r}", kind.__name__, value)
    return value


def _bad_type(what: str, expected: str, value: object) -> FormatError:
    return format_error(
        "bad-member-type", f"{what} is of JSON type {type(value).__name__}, expected {expected}"
    )


def _shard(raw: dict[str, Any]) -> Shard:
    whole = _place(raw, "shard")
    axes = {axis: _place(_member(raw, axis, dict, "shard"), axis) for axis in _AXES if axis in raw}
    return Shard(whole.rank, whole.size, **axes)


def _place(raw: dict[str, Any], where: str) -> RankOf:
    rank, size = _member(raw, "rank", int, where), _member(raw, "size", int, where)
    if not 1 <= size <= MAX_RANKS or not 0 <= rank < size:
        raise format_error("bad-shard", f"{where}: rank {rank} of {size}")
    return RankOf(rank, size)


def _storages(raw: list[Any], payload_nbytes: int, origin: int) -> tuple[Storage, ...]:
    storages, end = [], 0
    for index, value in enumerate(raw):
        if type(value) is not dict:
            raise _bad_type(f"storage {index}", "dict", value)
        where = f"storage {index}"
        offset, nbytes = _member(value, "offset", int, where), _member(value, "nbytes", int, where)
        if offset < 0 or offset % STORAGE_ALIGNMENT:
            raise format_error("misaligned-storage", f"{where} begins at {offset}")
        if nbytes < 0 or offset + nbytes > payload_nbytes:
            raise format_error(
                "storage-out-of-bounds",
                f"{where}, {offset} + {nbytes} bytes, in a payload of {payload_nbytes}",
            )
        if offset < end:
            raise format_error("storage-overlap", f"{where} begins at {offset}, before {end}")
        end = offset + nbytes
        storages.append(Storage(origin + offset, nbytes))
    return tuple(storages)


def _tensor(name: str, raw: Any, storages: tuple[Storage, ...]) -> TensorSpec:
    where = f"tensor {name!r}"
    if not name or "\0" in name or len(name.encode()) > MAX_NAME_NBYTES:
        raise format_error("bad-name", f"tensor name {name[:80]!r} is empty, too long or has NUL")
    if type(raw) is not dict:
        raise _bad_type(where, "dict", raw)
    dtype = _member(raw, "dtype", str, where)
    shape, stride = _integers(raw, "shape", where), _integers(raw, "stride", where)
    storage, offset = _member(raw, "storage", int, where), _member(raw, "offset", int, where)
    if dtype not in ITEMSIZES:
        raise format_error("unknown-dtype", f"{where} has the unknown dtype {dtype!r}")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise format_error("bad-shape", f"{where}: {len(shape)} sizes and {len(stride)} strides")
    if shape and (min(shape) < 0 or min(stride) < 0):
        raise format_error("bad-shape", f"{where}: shape {shape}, stride {stride}")
    if not 0 <= storage < len(storages):
        raise format_error("bad-storage-index", f"{where}: storage {storage} of {len(storages)}")
    if offset < 0 or offset % ITEMSIZES[dtype]:
        raise format_error("misaligned-tensor", f"{where}: offset {offset} for {dtype}")
    spec = TensorSpec(dtype, shape, stride, storage, offset)
    _check_extent(spec, storages[storage].nbytes, where)
    return spec


def _integers(raw: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
    values = tuple(_member(raw, name, list, where))
    if values and set(map(type, values)) != {int}:
        odd = next(value for value in values if type(value) is not int)
        raise _bad_type(f"{where}: an element of {name!r}", "int", odd)
    return values


def _check_extent(spec: TensorSpec, storage_nbytes: int, where: str) -> None:
    extent = spec.extent
    if extent > MAX_EXTENT or spec.nbytes > MAX_EXTENT:
        raise format_error("tensor-overflow", f"{where}: its size does not fit in 63 bits")
    if spec.offset + extent > storage_nbytes:
        raise format_error(
            "tensor-out-of-bounds",
            f"{where}: {spec.offset} + {extent} bytes in a storage of {storage_nbytes}",
        )
