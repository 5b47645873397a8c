"""What loading a checkpoint does to a model beyond filling it, which a restore has to do too."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from thaw_format import Snapshot
from torch import nn

from ...tensors.arena import allocate_like
from .configuration import TIED, UNTIED

if TYPE_CHECKING:
    from vllm.config import ModelConfig

_HEAD = "lm_head.weight"
_BIAS = "bias"
_REGISTER = "_register_bias"
"""vLLM's method of a head, which it calls when a checkpoint has a bias for it."""
_SCORE = "score"
"""vLLM's name of a classifier's head, which gets a bias when a checkpoint has one."""
_PASSED_ON = "skip_bias_add"
"""The attribute of vLLM's layers that says whether they leave their bias to others."""


def parameter_names(model: nn.Module) -> set[str]:
    """Name the parameters of a model, tied ones under each of their names."""
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


def unknown_additions(model: nn.Module, before: Collection[str]) -> list[str]:
    """Name what loading has added to a model, or taken from it, that `add_parameters` cannot.

    Args:
        before: the names of the parameters that the model was built with.
    """
    after = parameter_names(model)
    added = [name for name in after - set(before) if not _is_known(model, name)]
    return sorted([*added, *(set(before) - after)])


def add_parameters(model: nn.Module, snapshot: Snapshot) -> None:
    """Make the parameters that the checkpoint added to the model that was frozen."""
    for name in sorted(snapshot.tensors.keys() - parameter_names(model)):
        if _is_known(model, name):
            _add_bias(_owner(model, name), snapshot.tensors[name].shape)


def add_attributes(model: nn.Module, snapshot: Snapshot) -> None:
    """Make the tensors that processing weights kept beside them, where it was left out.

    The kernels are those of the snapshot: what they keep has the same names there.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, spec in snapshot.tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = modules.get(owner)
        beside = None if module is None else next(module.parameters(recurse=False), None)
        if beside is not None and not hasattr(module, leaf):
            setattr(module, leaf, allocate_like(spec, beside.device))


def tie_as_frozen(model_config: ModelConfig, snapshot: Snapshot, *, retie: bool) -> None:
    """Have a model built tied or untied, as it was when it was frozen.

    vLLM unties a model whose checkpoint has a head of its own, whatever its configuration says. A
    folder without a checkpoint cannot tell, and the snapshot can.

    Args:
        retie: whether vLLM ties it again where the weights turn out to be the same.
    """
    found: Any = model_config
    config: Any = model_config.hf_config
    untied_before, untied = getattr(found, UNTIED, None), _has_own_head(snapshot)
    if untied_before is None or untied is None:
        return
    if not untied_before and not getattr(config, TIED, False):
        return
    setattr(config, TIED, not untied)
    setattr(config.get_text_config(), TIED, not untied)
    setattr(found, UNTIED, untied and retie)


def _has_own_head(snapshot: Snapshot) -> bool | None:
    """Say whether a head is nothing else as well, if there is one; embeddings have many names."""
    heads = {each.storage for name, each in snapshot.tensors.items() if name.endswith(_HEAD)}
    others = {each.storage for name, each in snapshot.tensors.items() if not name.endswith(_HEAD)}
    return bool(heads - others) if heads else None


def _owner(model: nn.Module, name: str) -> Any:
    """Return the module that has a parameter, or would have it."""
    owner: Any = model
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part, None)
    return owner


def _is_known(model: nn.Module, name: str) -> bool:
    stem, _, last = name.rpartition(".")
    owner = _owner(model, name)
    is_score = stem.rpartition(".")[2] == _SCORE and hasattr(owner, _PASSED_ON)
    return last == _BIAS and (is_score or hasattr(owner, _REGISTER))


def _add_bias(owner: Any, shape: tuple[int, ...]) -> None:
    weight = owner.weight
    if hasattr(owner, _REGISTER):
        with weight.device:
            getattr(owner, _REGISTER)()
        return
    empty = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    owner.bias = nn.Parameter(empty, requires_grad=False)
    setattr(owner, _PASSED_ON, False)
