"""vLLM's processing of weights that are not there yet.

An engine that takes a processed snapshot has to be built as one is that processed its weights:
vLLM makes kernels then, and parameters of other shapes. Values come afterwards, from the snapshot,
so nothing may be decided by those that are in their place until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from thaw_format import Snapshot
from torch import nn

from ...errors import MismatchError
from ...tensors.arena import allocate_like
from .materializing import materialize, occupy
from .reads import ValueReads
from .verified import READERS


@contextmanager
def processing(snapshot: Snapshot) -> Iterator[Unfilled]:
    """Watch what vLLM does with weights that are not there, once the block calls `begin`.

    Raises:
        MismatchError: something looked at their values; vLLM would build another engine by it.
    """
    with ExitStack() as stack:
        unfilled = Unfilled(snapshot, stack)
        yield unfilled
    _check(unfilled.reads)


class Unfilled:
    """A model without weights, from when it is built until it is processed."""

    def __init__(self, snapshot: Snapshot, stack: ExitStack) -> None:
        self._snapshot, self._stack = snapshot, stack
        self.reads = ValueReads()

    def begin(self, model: nn.Module) -> None:
        """Make a model ready to be processed, and watch from here on."""
        self._stack.enter_context(self.reads)
        if not _knows_processed(model):
            materialize(model)
            return
        from vllm.model_executor.utils import weights_already_processed

        occupy(model.parameters())
        take_layout(model, self._snapshot)
        self._stack.enter_context(weights_already_processed())


def take_layout(model: nn.Module, snapshot: Snapshot) -> None:
    """Give parameters the dtypes, shapes and strides that they have once they are processed."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, spec in snapshot.tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = modules.get(owner)
        there = None if module is None else module._parameters.get(leaf)
        if module is None or there is None:
            continue
        wanted = spec.dtype, spec.shape, spec.stride
        if (there.dtype, tuple(there.shape), there.stride()) != wanted:
            memory = allocate_like(spec, there.device)
            occupy([memory])
            setattr(module, leaf, nn.Parameter(memory, requires_grad=False))


def _knows_processed(model: nn.Module) -> bool:
    """Say whether vLLM can be told that weights are processed, of all methods in a model."""
    try:
        from vllm.model_executor.utils import weights_already_processed  # noqa: F401
    except ImportError:
        return False
    methods = (getattr(module, "quant_method", None) for module in model.modules())
    return all(
        getattr(method, "supports_pre_processed_weights", False)
        for method in methods
        if hasattr(method, "process_weights_after_loading")
    )


def _check(reads: ValueReads) -> None:
    unknown = {reader: ops for reader, ops in reads.found.items() if reader not in READERS}
    if unknown:
        raise MismatchError.of(
            "vLLM decides by the values of weights how to process them, and they are not there yet",
            [f"{reader} (by {', '.join(sorted(ops))})" for reader, ops in sorted(unknown.items())],
            "; freeze the model as 'loaded'",
        )
