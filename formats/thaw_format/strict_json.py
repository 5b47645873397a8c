"""JSON as the specification restricts it (section 6)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from .codes import format_error
from .errors import FormatError

JSON: TypeAlias = "None | bool | int | str | list[JSON] | dict[str, JSON]"
_ParseInt: TypeAlias = "Callable[[str], int] | None"

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1
MAX_CONTAINERS, MAX_COMMAS = 1 << 20, 1 << 23

_LONG_NUMBER = b"0" * 16
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'{}[]:,"'))
_STRING = re.compile(rb'"[^"]*(?:"|$)')
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes) -> dict[str, Any]:
    """Parse one JSON object under rules JSON-1 to JSON-6.

    Raises:
        ManifestError: with the code of the rule that is broken, or `limit` (rule CON-3).
    """
    _check_limit(data)
    text = _decode(data)
    # Only long runs of digits can leave the range: spare the others a call each.
    parse_int = _parse_int if _LONG_NUMBER in data.translate(_AS_ZEROS) else None
    value, marks = _parse(text, data, parse_int)
    if not isinstance(value, dict):
        raise format_error("json-syntax", "the JSON text is not an object")
    _check_depth(marks)
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
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        if "Circular" in str(error):
            raise _too_deep() from None
        raise format_error("json-number", f"{error}; store it as a string") from None


def _check_keys(root: dict[str, Any]) -> None:
    # The json module would turn other keys into strings without a word.
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        for container in level:
            if isinstance(container, dict) and not all(type(key) is str for key in container):
                other = next(key for key in container if type(key) is not str)
                raise TypeError(f"{other!r} is no name: names and keys are strings")
        level = _children(level)


def _check_limit(data: bytes) -> None:
    """Refuse a text whose values would take many times its own size, before they are made."""
    containers, commas = data.count(b"{") + data.count(b"["), data.count(b",")
    if containers <= MAX_CONTAINERS and commas <= MAX_COMMAS:
        return
    marks = _marks(data)
    containers, commas = marks.count(b"["), marks.count(b",")
    if containers > MAX_CONTAINERS or commas > MAX_COMMAS:
        raise format_error(
            "limit",
            f"{containers} objects and arrays and {commas} commas in JSON; this reader takes at "
            f"most {MAX_CONTAINERS} and {MAX_COMMAS}",
        )


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise format_error("json-encoding", f"not UTF-8: {error}") from None
    if text.startswith("\ufeff"):
        raise format_error("json-encoding", "begins with a byte order mark")
    return text


def _parse(text: str, data: bytes, parse_int: _ParseInt) -> tuple[object, bytes]:
    """Parse JSON without duplicates; return its marks as well."""
    sizes: list[int] = []

    def measured(members: dict[str, Any]) -> dict[str, Any]:
        sizes.append(len(members))
        return members

    try:
        value = _loads(text, parse_int, object_hook=measured)
        marks = _marks(data)
        if marks.count(b":") == sum(sizes):
            return value, marks
    except FormatError:
        pass
    # Members one by one take longer, but then the first thing that is wrong is the one reported.
    return _loads(text, parse_int, object_pairs_hook=_unique), _marks(data)


def _loads(text: str, parse_int: _ParseInt, **hooks: Any) -> object:
    try:
        return json.loads(
            text,
            parse_int=parse_int,
            parse_float=_reject_float,
            parse_constant=_reject_constant,
            **hooks,
        )
    except FormatError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise format_error("json-syntax", f"not JSON: {error}") from None


def _marks(data: bytes) -> bytes:
    """Keep what stands outside of strings: brackets, all of them square, colons and commas."""
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = data.translate(_AS_BRACKETS, _NO_MARKS).replace(b'""', b"")
    return _STRING.sub(b"", marks)


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


def _check_depth(marks: bytes) -> None:
    brackets = marks.translate(None, b":,")
    for _ in range(MAX_DEPTH):
        # One level each time: what encloses nothing but these is left for the next.
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _too_deep()


def _children(level: list[Any]) -> list[Any]:
    return [
        child
        for container in level
        for child in (container.values() if isinstance(container, dict) else container)
        if isinstance(child, (dict, list, tuple))
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
