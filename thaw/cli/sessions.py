"""What `thaw sessions` and `thaw sessions prune` do and show."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from thaw.vllm.kv.folder import Entry, Folder

from .drawing import columns, plain, say, verdict
from .output import Output
from .shapes import PrunedJSON, SessionJSON, SessionsJSON
from .text import ago, count, size


def list_sessions(path: Path, output: Output) -> bool:
    """List the sessions of a folder, and say whether all can be used."""
    entries = _open(path).scan()
    document: SessionsJSON = {
        "folder": str(path),
        "nbytes": _nbytes(entries),
        "sessions": [_described(each) for each in entries],
    }
    output.emit(document, lambda console: _show(console, path, entries))
    return all(each.error is None for each in entries)


def prune(path: Path, max_nbytes: int, output: Output, *, dry_run: bool) -> None:
    """Remove the sessions that are too many, or say which they are."""
    folder = _open(path)
    removed = folder.excess(max_nbytes) if dry_run else folder.prune(max_nbytes)
    gone = {each.name for each in removed} if dry_run else ()
    whole = [each for each in folder.scan() if each.error is None and each.name not in gone]
    document: PrunedJSON = {
        "folder": str(path),
        "max_nbytes": max_nbytes,
        "dry_run": dry_run,
        "removed": [_described(each) for each in removed],
        "left": len(whole),
        "nbytes": _nbytes(whole),
    }
    output.emit(document, lambda console: _show_pruned(console, removed, document))


def _open(path: Path) -> Folder:
    # An engine's folder may come later; one that is looked at is there.
    os.stat(path)
    return Folder(path)


def _nbytes(entries: Iterable[Entry]) -> int:
    return sum(each.nbytes for each in entries if each.error is None)


def _described(entry: Entry) -> SessionJSON:
    first = entry.sessions[0] if entry.sessions else None
    engine = first.engine if first else {}
    layers = [layer for each in entry.sessions for layer in each.layers.values()]
    return {
        "name": entry.name,
        "path": str(entry.path),
        "snapshot_id": entry.snapshot_id,
        "tokens": entry.tokens,
        "nbytes": entry.nbytes,
        "ranks": len(entry.sessions),
        "model": _said(engine.get("model")),
        "dtype": _said(engine.get("dtype")),
        "vllm": _said(engine.get("vllm")),
        "cache_dtypes": sorted({each.cache_dtype for each in layers}),
        "attention": sorted({each.backend for each in layers}),
        "block_tokens": sorted({each.block_tokens for each in (first.groups if first else ())}),
        "adapter": first.adapter.name if first and first.adapter else None,
        "salted": first is not None and first.salt_sha256 is not None,
        "media": len(first.media) if first else 0,
        "fingerprints": [each.fingerprint for each in entry.sessions],
        "frozen_at": _moment(entry.mtime),
        "used_at": _moment(entry.used),
        "error": entry.error,
    }


def _said(value: object) -> str | None:
    return None if value is None else str(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _show(console: Console, path: Path, entries: Sequence[Entry]) -> None:
    if not entries:
        say(console, "no session in ", plain(path, "bold"))
        return
    right = frozenset(("tokens", "bytes"))
    table = columns("session", "model", "tokens", "bytes", "frozen", "used", "fits", right=right)
    now = time.time()
    for entry in entries:
        each = _described(entry)
        table.add_row(
            plain(each["name"], "bold"),
            plain(each["model"] or ""),
            f"{each['tokens']:,}" if entry.error is None else "",
            size(each["nbytes"]),
            ago(now - entry.mtime),
            ago(now - entry.used),
            _fits(console, each),
        )
    console.print(table)
    whole = [each for each in entries if each.error is None]
    broken = len(entries) - len(whole)
    more = f"; {broken:,} cannot be used" if broken else ""
    say(console, Text(f"{count(len(whole), 'session')}, {size(_nbytes(whole))}{more}", "dim"))


def _fits(console: Console, each: SessionJSON) -> Text:
    if each["error"] is not None:
        return Text.assemble(verdict(console, False), plain(each["error"], "red"))
    parts = (
        each["dtype"],
        f"cache {'+'.join(each['cache_dtypes'])}",
        "+".join(each["attention"]),
        each["vllm"] and f"vLLM {each['vllm']}",
        f"blocks of {'+'.join(map(str, each['block_tokens']))}",
        count(each["ranks"], "rank"),
        each["adapter"] and f"adapter {each['adapter']}",
        "a salt" if each["salted"] else None,
    )
    return plain(", ".join(part for part in parts if part))


def _show_pruned(console: Console, removed: Sequence[Entry], document: PrunedJSON) -> None:
    verb, now = "would remove" if document["dry_run"] else "removed", time.time()
    for each in removed:
        what = f", {size(each.nbytes)}, used {ago(now - each.used)}"
        say(console, f"{verb} ", plain(each.name, "bold"), what)
    gone, left = count(len(removed), "session"), count(document["left"], "session")
    sizes = f"{size(_nbytes(removed))}; {left} left, {size(document['nbytes'])}"
    say(console, Text(f"{verb} {gone}, {sizes}", "dim"))
