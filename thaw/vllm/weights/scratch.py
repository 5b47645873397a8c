"""What a vLLM model keeps that is no weight: memory for a batch, sized by options of the engine.

A forward pass writes it before it reads it, or leaves it zero for the next one. So a snapshot has
none of it, and a restore leaves it where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

_ANYWHERE = frozenset(
    {
        "kv_cache",
        "deepstack_input_embeds",
        "_ds_buffers",
        "per_layer_embeddings",
        "topk_indices_buffer",
        "_topk_indices_buffer",
        "routing_sink",
    }
)
"""Attributes of modules, other than parameters and buffers."""
_ZERO_BETWEEN = ("deepstack_input_embeds", "_ds_buffers")
"""Those that a forward pass expects to be zero, and leaves so."""
_OF_CLASS = {
    "Gemma3nTextModel": frozenset({"positions", "hidden_states", "per_layer_inputs"}),
    "Gemma4Model": frozenset({"positions", "hidden_states", "per_layer_inputs"}),
    "HpcRopeNorm": frozenset({"_kv_scratch"}),
}
"""Attributes whose names mean this in one class of vLLM's only."""
_TABLES = frozenset({"cos_sin_cache", "cos_sin_cache_bf16"})
_CONVERSION = "_match_cos_sin_cache_dtype"
"""A method of vLLM's rotary embeddings, which gives a table the dtype of queries."""


def is_scratch(owner: Any, attribute: str) -> bool:
    """Say whether an attribute of a module, or of what one holds, is memory for a batch."""
    if attribute in _ANYWHERE:
        return True
    return any(attribute in _OF_CLASS.get(kind.__name__, ()) for kind in type(owner).__mro__)


def scratch_names() -> frozenset[str]:
    """Return every name of such an attribute."""
    return _ANYWHERE.union(*_OF_CLASS.values())


def clear_scratch(model: nn.Module) -> None:
    """Make zero what has to be so between requests: an engine that slept may have lost it."""
    for module in model.modules():
        for attribute in _ZERO_BETWEEN:
            found = vars(module).get(attribute)
            for tensor in found if isinstance(found, (list, tuple)) else ():
                tensor.zero_()


def derived_tables(model: nn.Module) -> Iterator[str]:
    """Name the tables of rotary embeddings that building a model makes of its configuration.

    How many rows they have, and when they take another dtype, is the engine's business. Those that
    are made of weights are none of these.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, _CONVERSION) and next(module.parameters(recurse=False), None) is None:
            for name in _TABLES & module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name
