"""What a model that vLLM has just built lacks of one that has run: memory, and dtypes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from thaw_format import Snapshot, byte_view, extent_nbytes
from torch import nn

_CACHE, _CONVERSION = "cos_sin_cache", "_match_cos_sin_cache_dtype"
"""A table of rotary embeddings, and the method of vLLM's that gives it the dtype of queries."""


def is_deferred(layer: nn.Module) -> bool:
    """Say whether vLLM gives a layer memory only when its weights come."""
    return bool(getattr(getattr(layer, "quant_method", None), "uses_meta_device", False))


def deferred_layers(model: nn.Module) -> list[str]:
    """Name the layers of a model that have no memory before their weights come."""
    return [name for name, layer in model.named_modules() if is_deferred(layer)]


def materialize(model: nn.Module) -> None:
    """Give memory to deferred layers and process them one by one, as if weights had come.

    What is in that memory is filled from a snapshot afterwards. Until then it has what `occupy`
    leaves there, in the layers that are not deferred too.
    """
    occupy(model.parameters())
    for layer in model.modules():
        if is_deferred(layer):
            _materialize(layer)


def occupy(tensors: Iterable[torch.Tensor]) -> None:
    """Put values that harm nobody where the weights will be, since processing them has begun.

    Memory as it happens to be has numbers that are no indices, and may be equal in two tensors by
    chance, which vLLM would then tie. Here numbers are zero, and fractions differ from tensor to
    tensor. Scalars keep what vLLM has set them to, by which it knows that no value came.
    """
    for index, tensor in enumerate(tensors):
        if tensor.is_meta or not tensor.ndim:
            continue
        start = int(tensor.storage_offset()) * tensor.dtype.itemsize
        is_fraction = tensor.is_floating_point() and tensor.dtype.itemsize > 1
        # Bytes that are a small number in every float of two bytes or more.
        memory = byte_view(tensor.data, start, extent_nbytes(tensor.data))
        memory.fill_(index % 60 + 1 if is_fraction else 0)


def convert_caches(model: nn.Module, snapshot: Snapshot) -> None:
    """Give tables of rotary embeddings the dtype that the snapshot has, as running a model does."""
    for name, layer in model.named_modules():
        spec = snapshot.tensors.get(f"{name}.{_CACHE}")
        cache = getattr(layer, _CACHE, None)
        if spec and hasattr(layer, _CONVERSION) and cache is not None:
            setattr(layer, _CACHE, cache.to(spec.dtype))


def _materialize(layer: nn.Module) -> None:
    from vllm.model_executor.model_loader.reload.layerwise import (
        _get_original_loader,
        get_layerwise_info,
    )
    from vllm.model_executor.model_loader.reload.meta import materialize_layer
    from vllm.model_executor.model_loader.reload.utils import get_layer_tensors

    info = get_layerwise_info(layer)
    if not info.can_load():
        return
    materialize_layer(layer, info)
    occupy(layer.parameters())
    for tensor in get_layer_tensors(layer).values():
        tensor.weight_loader = _get_original_loader(tensor)
    layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr,operator]
    info.reset()
