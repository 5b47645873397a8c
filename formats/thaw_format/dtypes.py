"""The element types of the specification (section 9), and torch's for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ITEMSIZES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}
"""Each word of the specification, with the bytes of an element."""


class _TorchDtypes(dict[str, "torch.dtype"]):
    """Torch's element types by name: torch is imported for whoever asks for one."""

    def __missing__(self, name: str) -> torch.dtype:
        import torch

        found = getattr(torch, name, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{name!r} is no dtype of this torch, {torch.__version__}")
        self[name] = found
        return found


class _Names(dict["torch.dtype", str]):
    """The names of torch's element types, whether the specification has them or not."""

    def __missing__(self, dtype: torch.dtype) -> str:
        self[dtype] = str(dtype).removeprefix("torch.")
        return self[dtype]


TORCH_DTYPES = _TorchDtypes()
NAMES = _Names()


def dtype_name(dtype: torch.dtype) -> str:
    """Name a torch dtype in the words of the specification.

    Raises:
        TypeError: the format has no such element type.
    """
    name = NAMES[dtype]
    if name not in ITEMSIZES:
        raise TypeError(f"{dtype} cannot be stored; the format knows {', '.join(ITEMSIZES)}")
    return name
