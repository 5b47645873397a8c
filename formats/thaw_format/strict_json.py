"""JSON as the specification restricts it (section 6)."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeAlias

from .codes import format_error
from .errors import FormatError

JSON: TypeAlias = "None | bool | int | str | list[JSON] | dict[str, JSON]"

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

_LONG_NUMBER = re.compile(r"[0-9]{16}")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes) -> dict[str, Any]:
    """Parse one JSON object under rules JSON-1 to JSON-6.

    Raises:
        ManifestError: with the code of the rule that is broken.
    """
    text = _decode(data)
    value = _loads(text)
    if not isinstance(value, dict):
        raise format_error("json-syntax", "the JSON text is not an object")
    _check_depth(value)
    if _SURROGATE_ESCAPE.search(text):
        _check_unicode(value)
    return value


def serialize_json(value: dict[str, Any]) -> bytes:
    """Serialize a JSON object, and prove that a reader will accept it.

    Raises:
        ManifestError: the value has a float, a large integer, a lone surrogate or deep nesting.
        TypeError: the value has something that JSON cannot say.
    """
    data = dump_json(value)
    parse_json(data)
    return data


def dump_json(value: dict[str, Any]) -> bytes:
    """Serialize a JSON object that the caller proves by parsing it.

    Raises:
        ManifestError: the value has a lone surrogate or a number that is none.
        TypeError: the value has something that JSON cannot say.
    """
    _check_keys(value)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise format_error("json-unicode", f"text with a lone surrogate: {error}") from None
    except ValueError as error:
        raise format_error("json-number", f"{error}; store it as a string") from None


def _check_keys(root: dict[str, Any]) -> None:
    # The json module would turn other keys into strings without a word.
    level: list[Any] = [root]
    while level:
        for container in level:
            if type(container) is dict and not all(type(key) is str for key in container):
                other = next(key for key in container if type(key) is not str)
                raise TypeError(f"{other!r} is no name: names and keys are strings")
        level = _children(level)


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise format_error("json-encoding", f"not UTF-8: {error}") from None
    if text.startswith("\ufeff"):
        raise format_error("json-encoding", "begins with a byte order mark")
    return text


def _loads(text: str) -> object:
    # Only long runs of digits can leave the range: spare the others a call each.
    parse_int = _parse_int if _LONG_NUMBER.search(text) else None
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=parse_int,
            parse_float=_reject_float,
            parse_constant=_reject_constant,
        )
    except FormatError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise format_error("json-syntax", f"not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise format_error("json-duplicate-key", f"member {twice!r} occurs twice in one object")
    return members


def _parse_int(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        raise format_error("json-number", f"integer {digits[:24]} is beyond 2^53 - 1")
    return int(digits)


def _reject_float(text: str) -> NoReturn:
    raise format_error(
        "json-number", f"number {text[:24]} has a fraction or an exponent; store it as a string"
    )


def _reject_constant(text: str) -> NoReturn:
    raise format_error("json-syntax", f"{text} is not JSON")


def _too_deep() -> FormatError:
    return format_error("json-depth", f"nested deeper than {MAX_DEPTH} levels")


def _check_depth(root: dict[str, Any]) -> None:
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        level = _children(level)
        if not level:
            return
    raise _too_deep()


def _children(level: list[Any]) -> list[Any]:
    return [
        child
        for container in level
        for child in (container.values() if type(container) is dict else container)
        if type(child) is dict or type(child) is list
    ]


def _check_unicode(root: dict[str, Any]) -> None:
    stack: list[Any] = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, str) and not value.isascii():
            _check_string(value)


def _check_string(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise format_error("json-unicode", f"string {value!r} has a lone surrogate") from None
