"""Finding code that decides by the values of tensors, where there are none yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_PROCESSING = "process_weights_after_loading"
_OUTRIGHT = frozenset({"tolist", "numpy", "__array__"})
"""Methods of tensors that hand out values without calling an operator."""
_MASKS = (torch.bool, torch.uint8)
_BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class ValueReads:
    """Notes, while entered, who reads values of tensors to decide by them.

    Attributes:
        found: for each reader (a class that processes weights) the operators that it read by.
    """

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}
        self._stack = ExitStack()

    def _note(self, name: str) -> None:
        self.found.setdefault(_reader(sys._getframe(1)), set()).add(name)

    def __enter__(self) -> Self:
        self._stack.enter_context(_Functions(self._note))
        self._stack.enter_context(_Operators(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Functions(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(function, "__name__", "") in _OUTRIGHT:
            self._note(function.__name__)
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if _decides(operator, args):
            self._note(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


def _decides(operator: Any, args: Sequence[Any]) -> bool:
    """Say whether values reach the host, or how much there is depends on them."""
    if operator.overloadpacket is torch.ops.aten.index:
        # By numbers it returns as many elements as there are numbers, by a mask it depends.
        return any(each is not None and each.dtype in _MASKS for each in args[1])
    return any(tag in operator.tags for tag in _BY_VALUE)


def _reader(frame: FrameType | None) -> str:
    """Name the class whose processing of weights is under way, else the function of vLLM's."""
    name = ""
    while frame is not None:
        if frame.f_code.co_name == _PROCESSING and "self" in frame.f_locals:
            # Where the code stands: what derived classes process is the same.
            return frame.f_code.co_qualname.removesuffix(f".{_PROCESSING}").rpartition(".")[2]
        if not name and str(frame.f_globals.get("__name__", "")).startswith("vllm."):
            name = frame.f_code.co_name
        frame = frame.f_back
    return name or "vLLM"
