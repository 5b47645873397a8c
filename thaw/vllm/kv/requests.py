"""What of a request decides whether a session serves it, and what it asks of sessions."""

from __future__ import annotations

import errno
import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from .record import Adapter, Media

_ASKED = "thaw"
_KNOWN = frozenset({"freeze", "restore", "tokens", "skip"})
_READ_NBYTES = 1 << 20
_Signature: TypeAlias = tuple[object, ...]


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
    """Digests of LoRA adapters, as their files were when the engine began to use them."""

    def __init__(self) -> None:
        self._known: dict[_Signature, str] = {}
        self._used: dict[int, _Signature] = {}
        self._named: dict[str, set[_Signature]] = {}

    def note(self, request: Any) -> None:
        """Look at the files of a request's adapter, if it is used for the first time."""
        lora = request.lora_request
        if lora is None:
            return
        if _is_loaded_anew(lora) or lora.lora_int_id not in self._used:
            with suppress(OSError):
                self._used[lora.lora_int_id] = _signature(Path(lora.lora_path))
        if found := self._used.get(lora.lora_int_id):
            self._named.setdefault(lora.lora_name, set()).add(found)

    def forget_blocks(self) -> None:
        """Take note that the engine has no block left of any adapter."""
        self._named.clear()

    def of(self, request: Any) -> Adapter | None:
        """Describe a request's adapter.

        Raises:
            OSError: it has no files here, or others than when it was loaded, or there may be blocks
                of another adapter of its name.
        """
        lora = request.lora_request
        if lora is None:
            return None
        self.note(request)
        folder = Path(lora.lora_path)
        found = _signature(folder)
        if self._used.get(lora.lora_int_id) != found:
            message = "has changed since the engine loaded the adapter: load it as another one"
            raise OSError(errno.ESTALE, message, os.fspath(folder))
        digest = self._digest_of(found)
        if digest is None or {self._digest_of(each) for each in self._named[lora.lora_name]} != {
            digest
        }:
            # vLLM's keys of blocks have the name alone.
            message = (
                "adapters of this name that differ were used, and their blocks are not told apart: "
                "give each a name of its own, or call reset_prefix_cache(reset_connector=True)"
            )
            raise OSError(errno.ESTALE, message, lora.lora_name)
        return Adapter(lora.lora_name, digest)

    def _digest_of(self, signature: _Signature) -> str | None:
        """Digest files, if they are still what they were."""
        folder = signature[0]
        assert isinstance(folder, Path)
        if signature not in self._known:
            with suppress(OSError):
                if _signature(folder) == signature:
                    self._known[signature] = _digest(_files(folder))
        return self._known.get(signature)


def _is_loaded_anew(lora: Any) -> bool:
    return bool(getattr(lora, "load_inplace", False))


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


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_file())


def _signature(folder: Path) -> _Signature:
    """Tell files from those that have their names later, without reading them."""
    found = [(path.name, os.stat(path)) for path in _files(folder)]
    parts = ((name, each.st_ino, each.st_size, each.st_mtime_ns) for name, each in found)
    return (folder, *parts)


def _digest(files: Sequence[Path]) -> str:
    said = hashlib.sha256()
    for path in files:
        said.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while data := file.read(_READ_NBYTES):
                said.update(data)
    return said.hexdigest()
