"""What sessions of an engine are bound to, as each of its ranks says it, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from thaw_format import JSON

from ..weights.identity import identity_differences
from .record import Group, Layer, Session

BLOCK_SIZE, RANKS, GROUPS = "block-size", "ranks", "groups"
LAYOUT, FINGERPRINT, ENGINE = "layout", "weights", "engine"


@dataclass(frozen=True, slots=True)
class GroupOf:
    """A group of layers as an engine has it: see `record.Group`."""

    kind: str
    block_tokens: int
    window: int | None
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a rank says of itself.

    Attributes:
        fingerprint: of its weights.
        engine: what else blocks depend on, field by field.
        layers: the layout of the cache of each.
    """

    rank: int
    fingerprint: str
    engine: Mapping[str, JSON]
    groups: tuple[GroupOf, ...]
    layers: Mapping[str, Layer]


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a session is not one of this engine: a word for counters, and a line for people."""

    reason: str
    line: str


def compare(sessions: Sequence[Session], bindings: Sequence[Binding]) -> Difference | None:
    """Find the first thing in which a session, of all its ranks, differs from an engine."""
    if len(sessions) != len(bindings):
        said = f"it has {len(sessions)} ranks, this engine has {len(bindings)}"
        return Difference(RANKS, f"{said}; sessions are not cut anew for other numbers of ranks")
    return next(
        (
            Difference(each.reason, f"rank {rank}: {each.line}" if len(sessions) > 1 else each.line)
            for rank, (session, binding) in enumerate(zip(sessions, bindings, strict=True))
            for each in _differences(session, binding)
        ),
        None,
    )


def _differences(session: Session, binding: Binding) -> Iterator[Difference]:
    theirs = [(each.kind, each.block_tokens, each.window) for each in session.groups]
    ours = [(each.kind, each.block_tokens, each.window) for each in binding.groups]
    if [each[1] for each in theirs] != [each[1] for each in ours]:
        sizes = [", ".join(str(each[1]) for each in sides) for sides in (theirs, ours)]
        yield Difference(
            BLOCK_SIZE,
            f"its blocks are of {sizes[0]} tokens, this engine's of {sizes[1]}: pass block_size= "
            "as when it was frozen",
        )
    elif theirs != ours or [_layers(each) for each in session.groups] != [
        _layers(each) for each in binding.groups
    ]:
        yield Difference(GROUPS, f"its groups of layers are {theirs}, this engine's {ours}")
    for name, layer in binding.layers.items():
        if (found := session.layers.get(name)) != layer:
            yield Difference(LAYOUT, f"{name!r} is laid out as {found}, in this engine as {layer}")
            break
    lines = identity_differences(session.engine, binding.engine, "the session")
    # Of what is not known here, nothing says that it is the same.
    lines += [
        f"{field} is {value} in the session, not recorded in this engine"
        for field, value in sorted(session.engine.items())
        if field not in binding.engine
    ]
    if lines:
        yield Difference(ENGINE, "; ".join(lines))
    if session.fingerprint != binding.fingerprint:
        yield Difference(
            FINGERPRINT,
            f"it is of weights {session.fingerprint[:16]}, this engine has "
            f"{binding.fingerprint[:16]}",
        )


def _layers(group: Group | GroupOf) -> frozenset[str]:
    return frozenset(group.layers)
