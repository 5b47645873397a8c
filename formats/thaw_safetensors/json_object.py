"""The JSON of headers and indexes."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from thaw_format import FormatError

from .errors import checkpoint_error

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object of UTF-8 text without repeated keys.

    Raises:
        ManifestError: the data is something else.
    """
    try:
        value = _loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise checkpoint_error("safetensors-json", f"not UTF-8: {error}") from None
    except UnicodeEncodeError:
        raise checkpoint_error("safetensors-json", "text with a lone surrogate") from None
    if not isinstance(value, dict):
        raise checkpoint_error("safetensors-json", "the JSON text is not an object")
    return value


def _loads(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_reject_constant)
    except FormatError:
        raise
    except RecursionError:
        raise checkpoint_error("safetensors-json", "nested too deeply") from None
    except json.JSONDecodeError as error:
        raise checkpoint_error("safetensors-json", f"not JSON: {error}") from None
    except ValueError as error:
        raise checkpoint_error("safetensors-json", f"a number is too long: {error}") from None
    if _SURROGATE_ESCAPE.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise checkpoint_error(
            "safetensors-duplicate-key", f"member {key[:200]!r} occurs twice in one object"
        )
    return members


def _reject_constant(text: str) -> NoReturn:
    raise checkpoint_error("safetensors-json", f"{text} is not JSON")
