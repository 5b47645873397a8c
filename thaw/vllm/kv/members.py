"""Members of JSON objects, by name and type (rules KV-5 to KV-8 of spec/sessions-1.0.md)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from thaw_format import JSON, FormatError

from .rules import session_error

_SHA256 = re.compile("[0-9a-f]{64}")
_BYTES = re.compile("(?:[0-9a-f]{2})+")
_NAMES = {str: "a string", int: "an integer", dict: "an object", list: "an array"}
_Value = TypeVar("_Value", str, int, dict[str, JSON], list[JSON])


@dataclass(frozen=True, slots=True)
class Members:
    """An object of a session, and where it is."""

    raw: Mapping[str, JSON]
    where: str

    def text(self, name: str) -> str:
        return self._typed(name, str)

    def integer(self, name: str) -> int:
        return self._typed(name, int)

    def sha256(self, name: str) -> str:
        """Return 64 hexadecimal digits."""
        return _digits(self.text(name), _SHA256, f"{name!r} of {self.where}")

    def digits(self, name: str) -> bytes:
        """Return the bytes that hexadecimal digits stand for, one at least."""
        return bytes.fromhex(_digits(self.text(name), _BYTES, f"{name!r} of {self.where}"))

    def base64(self, name: str) -> bytes:
        """Return the bytes that base64 stands for: no bytes can be written in two ways."""
        text = self.text(name)
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            raise _bad_base64(name, self.where, str(error)) from None
        # Strict mode lets the bits pass that the last character has beyond those of a byte.
        kept = len(data) - (len(data) - 1) % 3 - 1 if data else 0
        last = binascii.b2a_base64(data[kept:], newline=False).decode()
        if len(text) != -(-len(data) // 3) * 4 or not text.endswith(last):
            raise _bad_base64(name, self.where, "it is not how its bytes are written")
        return data

    def object(self, name: str) -> Members:
        return Members(self._typed(name, dict), f"{name!r} of {self.where}")

    def objects(self, name: str) -> list[Members]:
        """Return the elements of an array of objects."""
        listed = self._typed(name, list)
        return [
            _object(each, f"element {index} of {name!r} of {self.where}")
            for index, each in enumerate(listed)
        ]

    def named_objects(self, name: str) -> dict[str, Members]:
        """Return the members of an object, each of them an object."""
        return {
            key: _object(each, f"{key!r} in {name!r} of {self.where}")
            for key, each in self._typed(name, dict).items()
        }

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the elements of an array of strings."""
        return tuple(self._elements(name, str))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return the elements of an array of integers."""
        return tuple(self._elements(name, int))

    def integers_or_null(self, name: str) -> tuple[int | None, ...]:
        """Return the elements of an array of integers and nulls."""
        return tuple(self._elements(name, int, type(None)))

    def is_null(self, name: str) -> bool:
        return self._found(name) is None

    def _elements(self, name: str, *kinds: type) -> list[Any]:
        listed = self._typed(name, list)
        if {*map(type, listed)} <= {*kinds}:
            return listed
        odd = next(each for each in listed if type(each) not in kinds)
        raise _bad_type(odd, kinds[0], f"an element of {name!r} of {self.where}")

    def _typed(self, name: str, kind: type[_Value]) -> _Value:
        found = self._found(name)
        # Not isinstance: true and false are no integers.
        if type(found) is not kind:
            raise _bad_type(found, kind, f"{name!r} of {self.where}")
        return found

    def _found(self, name: str) -> JSON:
        if name not in self.raw:
            raise session_error("session-missing-member", f"{self.where} has no {name!r}")
        return self.raw[name]


def _object(raw: JSON, where: str) -> Members:
    if not isinstance(raw, dict):
        raise _bad_type(raw, dict, where)
    return Members(raw, where)


def _bad_type(found: JSON, kind: type, where: str) -> FormatError:
    what = "null" if found is None else type(found).__name__
    return session_error("session-member-type", f"{where} is {what}, not {_NAMES[kind]}")


def _digits(text: str, pattern: re.Pattern[str], where: str) -> str:
    if pattern.fullmatch(text) is None:
        wanted = "64 hexadecimal digits" if pattern is _SHA256 else "pairs of hexadecimal digits"
        raise session_error("session-digits", f"{where} is {text[:70]!r}, not {wanted}, lower case")
    return text


def _bad_base64(name: str, where: str, why: str) -> FormatError:
    return session_error("session-base64", f"{name!r} of {where} is not base64: {why}")
