"""What of a request decides whether a session serves it, and what it asks of sessions."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .record import Adapter, Media

_ASKED = "thaw"
_KNOWN = frozenset({"freeze", "restore", "tokens", "skip"})
_READ_NBYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request's `kv_transfer_params` ask of sessions, under "thaw".

    Attributes:
        freeze: the session to freeze it to when it ends: a name in the folder, or a path.
        restore: the one session that may serve it, where not every one may.
        tokens: how many tokens to freeze at most.
        skip: whether no session may serve it.
    """

    freeze: str | None = None
    restore: str | None = None
    tokens: int | None = None
    skip: bool = False

    @classmethod
    def of(cls, parameters: object) -> Self:
        """Take what a request asks.

        Raises:
            ValueError: it asks for what there is not, or in another form.
        """
        asked = parameters.get(_ASKED) if isinstance(parameters, Mapping) else None
        if asked is None:
            return cls()
        if not isinstance(asked, Mapping) or not set(asked) <= _KNOWN:
            raise ValueError(
                f'kv_transfer_params["{_ASKED}"] is {asked!r}, expected an object with some of '
                f"{', '.join(sorted(_KNOWN))}"
            )
        made = cls(**asked)
        for name, kind in (("freeze", str), ("restore", str), ("tokens", int), ("skip", bool)):
            value = getattr(made, name)
            if value is not None and type(value) is not kind:
                raise ValueError(f"{name!r} is {value!r}, expected a {kind.__name__}")
        if made.tokens is not None and made.tokens < 1:
            raise ValueError(f"'tokens' is {made.tokens}, expected 1 or more")
        return made


@dataclass(frozen=True, slots=True)
class Inputs:
    """What enters the keys of a request's blocks beside its tokens."""

    adapter: Adapter | None
    salt_sha256: str | None
    media: tuple[Media, ...]

    def media_before(self, tokens: int) -> tuple[Media, ...]:
        """Return what begins among the first tokens."""
        return tuple(each for each in self.media if each.offset < tokens)


class Adapters:
    """Digests of LoRA adapters, computed once for each state of their files."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def of(self, request: Any) -> Adapter | None:
        """Describe a request's adapter.

        Raises:
            OSError: it has no files here.
        """
        lora = request.lora_request
        if lora is None:
            return None
        folder = Path(lora.lora_path)
        files = sorted(each for each in folder.iterdir() if each.is_file())
        key = (folder, *((each.name, *_signature(each)) for each in files))
        if key not in self._known:
            self._known[key] = _digest(files)
        return Adapter(lora.lora_name, self._known[key])


def inputs_of(request: Any, adapters: Adapters) -> Inputs:
    """Take what enters the keys of a request's blocks beside its tokens."""
    salt = request.cache_salt
    return Inputs(
        adapters.of(request),
        hashlib.sha256(salt.encode()).hexdigest() if salt else None,
        tuple(
            Media(each.identifier, each.mm_position.offset, each.mm_position.length)
            for each in request.mm_features or ()
        ),
    )


def token_bytes(token_ids: Sequence[int]) -> bytes:
    """Say token ids as unsigned 32-bit integers, little-endian."""
    return array("I", token_ids).tobytes()


def _signature(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(files: Sequence[Path]) -> str:
    said = hashlib.sha256()
    for path in files:
        said.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while data := file.read(_READ_NBYTES):
                said.update(data)
    return said.hexdigest()
