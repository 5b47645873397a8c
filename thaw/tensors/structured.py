"""State of modules that is no tensor, as JSON and the tensors in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from thaw_format import JSON, as_integers, is_strided

from ..errors import MismatchError

_EXACT = (type(None), bool, str)
_LARGEST = 2**53 - 1
_SEQUENCES: Mapping[str, Callable[[list[Any]], object]] = {
    "list": list,
    "tuple": tuple,
    "size": torch.Size,
}
_KINDS = {list: "list", tuple: "tuple", torch.Size: "size"}


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A value as JSON that refers to tensors, and these by name, in memory of their own."""

    said: JSON
    tensors: Mapping[str, torch.Tensor]


def encode(name: str, value: object) -> State:
    """Say a value as JSON and tensors.

    Raises:
        TypeError: it has something in it that is of no plain type.
    """
    tensors: dict[str, torch.Tensor] = {}
    return State(_encoded(name, value, tensors), tensors)


def decode(name: str, said: JSON, tensors: Mapping[str, torch.Tensor]) -> object:
    """Make the value that was said.

    Raises:
        MismatchError: it is said in a way that is not known.
    """
    try:
        return _decoded(said, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MismatchError(f"the snapshot says {name!r} in a way that is not known") from error


def names_in(said: JSON) -> Iterator[str]:
    """Name the tensors that a value refers to."""
    if not isinstance(said, dict):
        return
    for key, value in said.items():
        if key in {"tensor", "scales", "zero_points"} and isinstance(value, str):
            yield value
        for each in value if isinstance(value, list) else ():
            yield from names_in(each)
        if key == "dict" and isinstance(value, dict):
            for each in value.values():
                yield from names_in(each)


def is_equal(one: object, other: object) -> bool:
    """Say whether two values are the same, bit by bit."""
    try:
        a, b = encode("", one), encode("", other)
    except TypeError:
        return False
    return a.said == b.said and all(map(_are_equal, a.tensors.values(), b.tensors.values()))


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(as_integers(one), as_integers(other.to(one.device)))


def _encoded(name: str, value: object, tensors: dict[str, torch.Tensor]) -> JSON:
    if isinstance(value, torch.Tensor):
        return _of_tensor(name, value, tensors)
    if type(value) in _EXACT:
        return {"value": value}  # type: ignore[dict-item]
    if type(value) is int:
        return {"value": value} if abs(value) <= _LARGEST else {"int": str(value)}
    if type(value) is float:
        return {"float": value.hex()}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)) and type(value) in _KINDS:
        items = [_encoded(f"{name}.{i}", each, tensors) for i, each in enumerate(value)]
        return {_KINDS[type(value)]: items}
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        if all(type(key) is str for key in value):
            return {"dict": {k: _encoded(f"{name}.{k}", v, tensors) for k, v in value.items()}}
    raise TypeError(f"{type(value).__name__} is no plain type")


def _of_tensor(name: str, value: torch.Tensor, tensors: dict[str, torch.Tensor]) -> JSON:
    plain = value.detach()
    if is_strided(plain) and type(plain) is torch.Tensor:
        tensors[name] = plain.clone()
        return {"tensor": name}
    if not plain.is_quantized:
        raise TypeError(f"{type(value).__name__} is no plain tensor")
    tensors[name] = plain.int_repr()
    said: dict[str, JSON] = {"tensor": name}
    if plain.qscheme() == torch.per_tensor_affine:
        return said | {"scale": plain.q_scale().hex(), "zero_point": plain.q_zero_point()}
    if plain.qscheme() != torch.per_channel_affine:
        raise TypeError(f"a tensor of the scheme {plain.qscheme()} is no plain tensor")
    scales, zero_points = f"{name}.scales", f"{name}.zero_points"
    tensors[scales] = plain.q_per_channel_scales().clone()
    tensors[zero_points] = plain.q_per_channel_zero_points().clone()
    return said | {
        "scales": scales,
        "zero_points": zero_points,
        "axis": plain.q_per_channel_axis(),
    }


def _decoded(said: Any, tensors: Mapping[str, torch.Tensor]) -> object:
    if "tensor" in said:
        return _tensor(said, tensors)
    ((kind, value),) = said.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([_decoded(each, tensors) for each in value])
    if kind == "dict":
        return {key: _decoded(each, tensors) for key, each in value.items()}
    if kind == "value" and type(value) in (*_EXACT, int):
        return value
    if kind == "int":
        return int(value)
    if kind == "float":
        return float.fromhex(value)
    found = getattr(torch, value) if kind == "dtype" else None
    if not isinstance(found, torch.dtype):
        raise ValueError(kind)
    return found


def _tensor(said: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    plain = tensors[said["tensor"]]
    if "scales" in said:
        scales, zero_points = tensors[said["scales"]], tensors[said["zero_points"]]
        return torch._make_per_channel_quantized_tensor(plain, scales, zero_points, said["axis"])
    if "scale" in said:
        scale = float.fromhex(said["scale"])
        return torch._make_per_tensor_quantized_tensor(plain, scale, said["zero_point"])
    return plain
