"""The element types of the safetensors format, and those of the `.thaw` format that they are."""

from __future__ import annotations

from thaw_format.dtypes import ITEMSIZES

from .errors import checkpoint_error

PACKED = "float4_e2m1fn_x2"
"""Two elements a byte: this format counts them one by one, torch in pairs."""
WORDS: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F4": PACKED,
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
"""Each name of this format with the word of the other."""
NAMES: dict[str, str] = {word: name for name, word in WORDS.items()}
_ORDER = (
    "BOOL F4 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 "
    "C64 F64 I64 U64"
)
ALIGNED: dict[str, int] = {WORDS[name]: at for at, name in enumerate(_ORDER.split())}
"""The rank of each by which the safetensors library sorts tensors, the widest last."""

_MAX_NBYTES = 2**63 - 1


def word_of(name: str, tensor: str) -> str:
    """Return the word for the element type that a header names for a tensor.

    Raises:
        ManifestError: torch has none, or the name is unknown.
    """
    try:
        return WORDS[name]
    except KeyError:
        known = ", ".join(WORDS)
        raise checkpoint_error(
            "safetensors-dtype",
            f"tensor {tensor[:200]!r} is of {name[:40]!r}, which torch lacks; it knows {known}",
        ) from None


def torch_shape(word: str, shape: tuple[int, ...], tensor: str) -> tuple[int, ...]:
    """Turn the shape in a header into torch's, which counts packed 4-bit elements in pairs.

    Raises:
        ManifestError: torch cannot express the shape.
    """
    if word == PACKED:
        if not shape or shape[-1] % 2:
            raise checkpoint_error(
                "safetensors-shape",
                f"tensor {tensor[:200]!r} of F4 has shape {list(shape)}; the last must be even",
            )
        shape = (*shape[:-1], shape[-1] // 2)
    limit = _MAX_NBYTES // ITEMSIZES[word]
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
