"""The element types of the safetensors format and torch's for them."""

from __future__ import annotations

import torch

from .errors import checkpoint_error

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F4": torch.float4_e2m1fn_x2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = (
    "BOOL F4 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 "
    "C64 F64 I64 U64"
)
ALIGNED: dict[torch.dtype, int] = {DTYPES[name]: at for at, name in enumerate(_ORDER.split())}
"""The rank of each by which the safetensors library sorts tensors, the widest last."""
STORABLE: frozenset[torch.dtype] = frozenset(DTYPES.values())

_MAX_NBYTES = 2**63 - 1


def torch_dtype(name: str, tensor: str) -> torch.dtype:
    """Return torch's element type for the one that a header names for a tensor.

    Raises:
        ManifestError: torch has none, or the name is unknown.
    """
    try:
        return DTYPES[name]
    except KeyError:
        known = ", ".join(DTYPES)
        raise checkpoint_error(
            "safetensors-dtype",
            f"tensor {tensor[:200]!r} is of {name[:40]!r}, which torch lacks; it knows {known}",
        ) from None


def torch_shape(dtype: torch.dtype, shape: tuple[int, ...], tensor: str) -> tuple[int, ...]:
    """Turn the shape in a header into torch's, which counts packed 4-bit elements in pairs.

    Raises:
        ManifestError: torch cannot express the shape.
    """
    if dtype is torch.float4_e2m1fn_x2:
        if not shape or shape[-1] % 2:
            raise checkpoint_error(
                "safetensors-shape",
                f"tensor {tensor[:200]!r} of F4 has shape {list(shape)}; the last must be even",
            )
        shape = (*shape[:-1], shape[-1] // 2)
    limit = _MAX_NBYTES // dtype.itemsize
    count = 1
    for size in shape:
        # Zeros count as ones: torch's strides must stay in range for empty tensors too.
        count *= max(size, 1)
        if count > limit:
            raise checkpoint_error(
                "safetensors-shape", f"tensor {tensor[:200]!r} has sizes beyond 2^63 - 1 bytes"
            )
    return shape


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
