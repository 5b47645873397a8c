"""Which kernels a model's weights were processed for, module by module.

vLLM chooses a kernel for a layer by options, by what is installed and by the machine, and lays its
weights out for it: other kernels may want halves swapped or scales folded, at the same names,
shapes and dtypes. What was chosen shows in the layer's method, and in plain attributes of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import partial, wraps
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from thaw_format import JSON, Snapshot
from torch import nn

from ...errors import MismatchError
from .fingerprint import noting_fingerprint
from .identity import kernels_in
from .verified import VERIFIED

Parts: TypeAlias = dict[str, str]
"""What a layer's method is and how it is set, each by the way of attributes that leads there."""

_METHODS = ("quant_method", "scheme")
"""Attributes of modules that hold what processes their weights."""
_HOLDERS = (*_METHODS, "impl")
"""The same, and what computes attention."""
_KERNELS = ("vllm.model_executor.kernels.", "vllm.model_executor.layers.fused_moe.experts.")
"""Where vLLM has the classes of kernels that weights are laid out for."""
_OPTIONS = "QuantizationConfig"
"""vLLM's class for what a model's configuration says, which has a place of its own."""
_NOT_STATE = ("vllm.config", "vllm.distributed", "vllm.platforms", "vllm.transformers_utils")
_PASSING = frozenset(
    {
        # Options of which the outcome is recorded, and what they choose for other things than
        # weights: how operators are compiled, and how many tokens there may be at a time.
        *("moe_backend", "_forward_method", "_enforce_enable", "max_capture_size"),
        *("defer_moe_finalize_max_num_tokens", "max_num_batched_tokens", "max_num_seqs"),
        *("max_num_tokens", "_dcp_max_num_tokens", "max_model_len"),
    }
)
_OWN = frozenset(vars(nn.Module()))
_MOST_DEEP = 5
_ATOMS = (type(None), bool, int, str, torch.dtype, torch.Size)
"""Types of plain attributes; fractions may come from weights, and are restored with them."""
_LISTED = 3
_NOTING = "_thaw_notes_kernels"
_noted: WeakKeyDictionary[nn.Module, Mapping[str, Parts]] = WeakKeyDictionary()


def kernels_of(model: nn.Module) -> Mapping[str, Parts]:
    """Describe, for each module whose weights vLLM processes, what they are processed for.

    Of a model for which `note_kernels` was called, what it noted: running changes attributes.
    """
    noted = _noted.get(model)
    if noted is not None:
        return noted
    found = {name: _describe(module) for name, module in model.named_modules()}
    return {name: parts for name, parts in found.items() if parts}


def note_kernels(model: nn.Module) -> None:
    """Describe a model that vLLM has just loaded and that has not run yet."""
    _noted.pop(model, None)
    _noted[model] = kernels_of(model)


def note_when_loaded(loader_class: type) -> None:
    """Have a class of loaders, and those derived from it, note what becomes of what they load."""
    load = loader_class.load_model  # type: ignore[attr-defined]
    if hasattr(load, _NOTING):
        return

    @wraps(load)
    def loading(loader: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        with noting_fingerprint(loader, vllm_config):
            model = load(loader, vllm_config, *args, **kwargs)
        note_kernels(model)
        return model

    setattr(loading, _NOTING, True)
    loader_class.load_model = loading  # type: ignore[attr-defined]


def record_kernels(kernels: Mapping[str, Parts]) -> list[JSON]:
    """Say in JSON what kernels there are; modules with the same ones stand together."""
    groups: dict[str, list[str]] = {}
    for name, parts in kernels.items():
        groups.setdefault(json.dumps(parts, sort_keys=True), []).append(name)
    return [
        {"modules": list(names), "digest": _digest(said), "parts": json.loads(said)}
        for said, names in groups.items()
    ]


def check_kernels(snapshot: Snapshot, model: nn.Module) -> None:
    """Compare the kernels that a snapshot's weights were processed for with those of a model.

    Raises:
        MismatchError: they differ; parts that do are named, with both values.
    """
    there, here = _recalled(snapshot), kernels_of(model)
    differences = [f"{name!r} is processed in one of them alone" for name in there.keys() ^ here]
    for name in there.keys() & here:
        differences += _differences(name, there[name], here[name])
    if differences:
        raise MismatchError.of(
            f"{snapshot.path} was processed for other kernels",
            sorted(differences),
            "; give vLLM the options and libraries that the snapshot was frozen with, or freeze "
            "again",
        )


def check_verified(kernels: Mapping[str, Parts], *, allow: bool) -> None:
    """Refuse kernels of which nobody has shown that what they leave behind is all in tensors.

    Raises:
        MismatchError: there are some, and they are not allowed.
    """
    names: dict[str, list[str]] = {}
    for module, parts in kernels.items():
        for each in sorted(set(_classes(parts)) - VERIFIED):
            names.setdefault(each, []).append(module)
    if names and not allow:
        raise MismatchError.of(
            "what these make of weights was never compared with a snapshot of it",
            [f"{each} ({_listed(modules)})" for each, modules in sorted(names.items())],
            "; freeze the model as 'loaded', or allow it by --allow-unverified "
            "(allow_unverified=True) and compare what the engine answers",
        )


def classes_in(snapshot: Snapshot) -> set[str]:
    """Name the methods and kernels that a snapshot's weights were processed for, if they were."""
    there = {} if kernels_in(snapshot) is None else _recalled(snapshot)
    return {name for parts in there.values() for name in _classes(parts)}


def _describe(module: nn.Module) -> Parts:
    parts: Parts = {}
    for holder in _HOLDERS:
        # Some methods are modules as well, which a module keeps elsewhere than in its attributes.
        value = getattr(module, holder, None)
        if value is not None and not isinstance(value, (*_ATOMS, float, torch.Tensor)):
            parts[holder] = _named(type(value))
            for inner, each in _attributes(holder, value):
                parts.update(_parts(inner, each, 1, {id(value)}))
    return parts


def _parts(way: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, str]]:
    said = _say(value)
    if said is not None:
        yield way, said
    elif not isinstance(value, torch.Tensor) and depth <= _MOST_DEEP and id(value) not in seen:
        seen.add(id(value))
        for inner, each in _inside(way, value):
            yield from _parts(inner, each, depth + 1, seen)


def _inside(way: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{way}[{key}]", each) for key, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{way}[{index}]", each) for index, each in enumerate(value))
    elif isinstance(value, partial):
        yield way, value.func
        yield from ((f"{way}({key})", each) for key, each in value.keywords.items())
    elif _is_part(value):
        yield way, type(value)
        yield from _attributes(way, value)


def _attributes(way: str, value: Any) -> Iterator[tuple[str, Any]]:
    attributes: Mapping[str, Any] = getattr(value, "__dict__", {})
    passed = _PASSING | _OWN if isinstance(value, nn.Module) else _PASSING
    yield from (
        (f"{way}.{name}", each) for name, each in sorted(attributes.items()) if name not in passed
    )


def _is_part(value: Any) -> bool:
    """Say whether an object belongs to a method: vLLM's own, and neither a layer nor an option."""
    origin = type(value).__module__
    ours = origin.startswith("vllm.") and not origin.startswith(_NOT_STATE)
    bases = {each.__name__ for each in type(value).__mro__}
    return ours and _OPTIONS not in bases and not isinstance(value, nn.Module)


def _say(value: Any) -> str | None:
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, _ATOMS):
        return repr(value)
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return _named(value)
    return _named(value.__func__) if isinstance(value, MethodType) else None


def _named(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _classes(parts: Parts) -> Iterator[str]:
    """Name what lays weights out: methods, and the kernels in them."""
    for way, said in parts.items():
        name = said.rpartition(".")[2]
        if way in _METHODS or (said.startswith(_KERNELS) and not name.endswith("Config")):
            yield name


def _digest(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _recalled(snapshot: Snapshot) -> dict[str, Parts]:
    """Read what `record_kernels` said.

    Raises:
        MismatchError: it is not there, or not whole.
    """
    found: dict[str, Parts] = {}
    recorded = kernels_in(snapshot)
    if not isinstance(recorded, Sequence) or isinstance(recorded, str):
        raise MismatchError(
            f"{snapshot.path} does not say which kernels its weights were processed for: an older "
            "thaw froze it; freeze it again"
        )
    for group in recorded:
        try:
            parts = {str(way): str(said) for way, said in group["parts"].items()}
            if _digest(json.dumps(parts, sort_keys=True)) != group["digest"]:
                raise KeyError("digest")
            found |= dict.fromkeys(map(str, group["modules"]), parts)
        except (AttributeError, KeyError, TypeError):
            raise MismatchError(f"{snapshot.path} has kernels that say nothing") from None
    return found


def _differences(name: str, there: Parts, here: Parts) -> Iterator[str]:
    ways = sorted(way for way in there.keys() | here if there.get(way) != here.get(way))
    if ways:
        listed = ", ".join(
            f"{way} is {there.get(way, 'not there')} in the snapshot, "
            f"{here.get(way, 'not there')} in this engine"
            for way in ways[:_LISTED]
        )
        more = f", and {len(ways) - _LISTED} more" if len(ways) > _LISTED else ""
        yield f"{name!r}: {listed}{more}"


def _listed(modules: Sequence[str]) -> str:
    more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    return f"{modules[0]}{more}"
