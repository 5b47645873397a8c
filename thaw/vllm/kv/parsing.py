"""The parts of a session, from JSON."""

from __future__ import annotations

from thaw_format import JSON, Snapshot

from .members import Members
from .parts import Adapter, Group, Hashes, Layer, Media
from .rules import session_error

KIND = "kv"
KEY = "session"
MAJOR = 1


def session_members(snapshot: Snapshot) -> Members:
    """Find the description of a session, of a version that is known here (rules KV-1 and KV-2)."""
    if snapshot.kind != KIND:
        message = f"is a snapshot of kind {snapshot.kind!r}; a session is of kind {KIND!r}"
        raise session_error("session-missing", message)
    raw: JSON = snapshot.metadata.get(KEY)
    if not isinstance(raw, dict):
        raise session_error("session-missing", f"its metadata has no object {KEY!r}")
    said = Members(raw, "the session")
    if (major := said.integer("major")) != MAJOR:
        message = f"the session is of version {major}; version {MAJOR} is known here"
        raise session_error("session-version", message)
    said.integer("minor")
    return said


def parse_hashes(said: Members) -> Hashes:
    return Hashes(
        algorithm=said.text("algorithm"),
        seed=said.digits("seed"),
        block_tokens=said.integer("block_tokens"),
        values=said.base64("values"),
    )


def parse_group(said: Members) -> Group:
    return Group(
        kind=said.text("kind"),
        block_tokens=said.integer("block_tokens"),
        window=None if said.is_null("window") else said.integer("window"),
        first_block=said.integer("first_block"),
        blocks=said.integer("blocks"),
        layers=said.texts("layers"),
    )


def parse_layer(said: Members) -> Layer:
    return Layer(
        shape=said.integers_or_null("shape"),
        order=said.integers("order"),
        rows_per_block=said.integer("rows_per_block"),
        backend=said.text("backend"),
        cache_dtype=said.text("cache_dtype"),
    )


def parse_adapter(said: Members) -> Adapter | None:
    """Read what a session says of its adapter, given the session."""
    if said.is_null("adapter"):
        return None
    adapter = said.object("adapter")
    return Adapter(name=adapter.text("name"), sha256=adapter.sha256("sha256"))


def parse_media(said: Members) -> Media:
    return Media(said.text("identifier"), said.integer("offset"), said.integer("length"))
