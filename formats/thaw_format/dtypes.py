"""The element types of the specification (section 9) and torch's for them."""

from __future__ import annotations

import torch

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "uint64",
        "int64",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float4_e2m1fn_x2",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex32",
        "complex64",
        "complex128",
    )
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Name a torch dtype in the words of the specification.

    Raises:
        TypeError: the format has no such element type.
    """
    try:
        return NAMES[dtype]
    except KeyError:
        known = ", ".join(DTYPES)
        raise TypeError(f"{dtype} cannot be stored; the format knows {known}") from None
