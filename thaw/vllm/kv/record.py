"""What a file says of its session, as spec/sessions-1.0.md has it."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from thaw_format import JSON, Snapshot, naming

from .checks import (
    check_groups,
    check_hashes,
    check_layers,
    check_media,
    check_tensors,
    count_tokens,
)
from .members import Members
from .parsing import (
    KEY,
    KIND,
    MAJOR,
    parse_adapter,
    parse_group,
    parse_hashes,
    parse_layer,
    parse_media,
    session_members,
)
from .parts import Adapter, Group, Hashes, Layer, Media
from .rules import session_error

__all__ = [
    "KEY",
    "KIND",
    "MAJOR",
    "Adapter",
    "Group",
    "Hashes",
    "Layer",
    "Media",
    "Session",
    "check_ranks",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as one rank's file describes it.

    Attributes:
        token_ids: unsigned 32-bit integers, little-endian, one after the other.
        fingerprint: of this rank's weights, 64 hexadecimal digits.
        engine: what else the bytes depend on, field by field.
        salt_sha256: of the cache salt, if the requests had one.
    """

    token_ids: bytes
    hashes: Hashes
    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    fingerprint: str
    engine: Mapping[str, JSON]
    adapter: Adapter | None = None
    salt_sha256: str | None = None
    media: tuple[Media, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.token_ids) // 4

    def record(self) -> dict[str, JSON]:
        """Say it in a snapshot's metadata."""
        hashes = self.hashes
        said: dict[str, JSON] = {
            "major": MAJOR,
            "minor": 0,
            "token_ids": _text(self.token_ids),
            "hashes": {
                "algorithm": hashes.algorithm,
                "seed": hashes.seed.hex(),
                "block_tokens": hashes.block_tokens,
                "values": _text(hashes.values),
            },
            "groups": [_said(group) for group in self.groups],
            "layers": {name: _said(layer) for name, layer in self.layers.items()},
            "fingerprint": self.fingerprint,
            "engine": dict(self.engine),
            "adapter": None if self.adapter is None else _said(self.adapter),
            "salt_sha256": self.salt_sha256,
            "media": [_said(each) for each in self.media],
        }
        return {KEY: said}

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Read what a snapshot says of its session.

        Raises:
            FormatError: it holds none, or one that breaks a rule of the profile.
        """
        with naming(snapshot.path):
            session = cls._parsed(session_members(snapshot))
            session._check(snapshot)
        return session

    @classmethod
    def _parsed(cls, said: Members) -> Self:
        return cls(
            token_ids=said.base64("token_ids"),
            hashes=parse_hashes(said.object("hashes")),
            groups=tuple(parse_group(each) for each in said.objects("groups")),
            layers={name: parse_layer(each) for name, each in said.named_objects("layers").items()},
            fingerprint=said.sha256("fingerprint"),
            engine=said.object("engine").raw,
            adapter=parse_adapter(said),
            salt_sha256=None if said.is_null("salt_sha256") else said.sha256("salt_sha256"),
            media=tuple(parse_media(each) for each in said.objects("media")),
        )

    def _check(self, snapshot: Snapshot) -> None:
        tokens = count_tokens(self.token_ids)
        check_hashes(self.hashes, tokens)
        check_groups(self.groups, tokens)
        check_layers(self.groups, self.layers)
        check_media(self.media, tokens)
        check_tensors(self.groups, self.layers, snapshot)


def check_ranks(sessions: Sequence[Session]) -> None:
    """Check that the ranks of a snapshot hold parts of one session (rule KV-22).

    Args:
        sessions: of all ranks, in their order.

    Raises:
        FormatError: two ranks differ in what they have to say alike.
    """
    first = _said_alike(sessions[0])
    for rank, session in enumerate(sessions):
        for name, value in _said_alike(session).items():
            if value != first[name]:
                message = f"{name!r} of rank {rank} is not that of rank 0"
                raise session_error("session-ranks", message)


def _said_alike(session: Session) -> dict[str, object]:
    return {
        "token_ids": session.token_ids,
        "hashes": session.hashes,
        "groups": [replace(group, layers=()) for group in session.groups],
        "adapter": session.adapter,
        "salt_sha256": session.salt_sha256,
        "media": session.media,
    }


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _said(part: Layer | Group | Media | Adapter) -> dict[str, JSON]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(part).items()
    }
