"""Sessions among snapshots: the session table of their profile, and the same in short."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text
from thaw_format import JSON, Snapshot, naming

from thaw.vllm.kv.record import KEY, KIND, Group, Session, check_ranks

from .drawing import plain
from .session_shapes import (
    SessionGroupJSON,
    SessionHashesJSON,
    SessionLayerJSON,
    SessionTableJSON,
)
from .shapes import TensorJSON
from .text import count

_FIELDS, _DIGITS = 8, 16


def sessions_of(path: Path, snapshots: Sequence[Snapshot]) -> list[Session]:
    """Read the session that snapshots say they hold, a rank each; none if they say of none.

    Raises:
        FormatError: it breaks a rule of its profile.
    """
    if not any(each.kind == KIND and KEY in each.metadata for each in snapshots):
        return []
    sessions = [Session.of(each) for each in snapshots]
    with naming(path):
        check_ranks(sessions)
    return sessions


def session_table(
    snapshots: Sequence[Snapshot], sessions: Sequence[Session], tensors: Sequence[TensorJSON]
) -> list[SessionTableJSON]:
    """Make the session table; it has the SHA-256 of layers where the tensor table has."""
    rows = {(row["rank"], row["name"]): row for row in tensors}
    return [
        _table(session, snapshot.shard.rank, rows)
        for snapshot, session in zip(snapshots, sessions, strict=True)
    ]


def session_facts(session: Session) -> dict[str, RenderableType]:
    """Say in a few lines what a session holds and what it is bound to."""
    facts: dict[str, RenderableType] = {
        "session": Text(count(session.tokens, "token")),
        "groups": Text("\n").join(_group_line(each) for each in session.groups),
        "weights": plain(f"{session.fingerprint[:_DIGITS]}…"),
    }
    if session.engine:
        facts["engine"] = _fields(session.engine)
    if adapter := session.adapter:
        facts["adapter"] = Text.assemble(
            plain(adapter.name, limit=60), Text(f" {adapter.sha256[:_DIGITS]}…", "dim")
        )
    if session.salt_sha256:
        facts["salt"] = Text(f"its SHA-256 is {session.salt_sha256[:_DIGITS]}…")
    if session.media:
        facts["media"] = Text(str(len(session.media)))
    return facts


def _table(
    session: Session, rank: int, rows: Mapping[tuple[int, str], TensorJSON]
) -> SessionTableJSON:
    owners = {name: n for n, group in enumerate(session.groups) for name in group.layers}
    adapter = session.adapter
    return {
        "rank": rank,
        "tokens": session.tokens,
        "token_ids_sha256": hashlib.sha256(session.token_ids).hexdigest(),
        "hashes": _hashes(session),
        "groups": [_group(each) for each in session.groups],
        "layers": [
            _layer(session, name, owners[name], rows[rank, name]) for name in sorted(session.layers)
        ],
        "fingerprint": session.fingerprint,
        "engine": dict(session.engine),
        "adapter": {"name": adapter.name, "sha256": adapter.sha256} if adapter else None,
        "salt_sha256": session.salt_sha256,
        "media": [
            {"identifier": each.identifier, "offset": each.offset, "length": each.length}
            for each in session.media
        ],
    }


def _hashes(session: Session) -> SessionHashesJSON:
    hashes = session.hashes
    number = session.tokens // hashes.block_tokens
    return {
        "algorithm": hashes.algorithm,
        "seed": hashes.seed.hex(),
        "block_tokens": hashes.block_tokens,
        "count": number,
        "width": len(hashes.values) // number,
        "sha256": hashlib.sha256(hashes.values).hexdigest(),
    }


def _group(group: Group) -> SessionGroupJSON:
    return {
        "kind": group.kind,
        "block_tokens": group.block_tokens,
        "window": group.window,
        "first_block": group.first_block,
        "blocks": group.blocks,
        "layers": list(group.layers),
    }


def _layer(session: Session, name: str, group: int, tensor: TensorJSON) -> SessionLayerJSON:
    layer, rows = session.layers[name], tensor["shape"][0]
    found: SessionLayerJSON = {
        "name": name,
        "group": group,
        "shape": list(layer.shape),
        "order": list(layer.order),
        "rows_per_block": layer.rows_per_block,
        "backend": layer.backend,
        "cache_dtype": layer.cache_dtype,
        "dtype": tensor["dtype"],
        "rows": rows,
        "row_nbytes": tensor["nbytes"] // rows,
    }
    if "sha256" in tensor:
        found["sha256"] = tensor["sha256"]
    return found


def _group_line(group: Group) -> Text:
    kind = group.kind if group.window is None else f"{group.kind} of {group.window:,}"
    blocks = f"{count(group.blocks, 'block')} of {count(group.block_tokens, 'token')}"
    start = f" from block {group.first_block:,}" if group.first_block else ""
    return Text(f"{kind}: {count(len(group.layers), 'layer')}, {blocks}{start}")


def _fields(engine: Mapping[str, JSON]) -> Text:
    """Show the members that are a word or a number; others are for `--json`."""
    plainly = {key: each for key, each in engine.items() if isinstance(each, str | int)}
    lines = [
        Text.assemble(plain(key, limit=40), " = ", plain(each, "dim", 60))
        for key, each in list(plainly.items())[:_FIELDS]
    ]
    if left := len(engine) - len(lines):
        lines.append(Text(f"and {left} more", "dim"))
    return Text("\n").join(lines)
