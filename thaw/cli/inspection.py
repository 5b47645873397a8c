"""What `thaw inspect` does and shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from thaw_format import Shard, Snapshot

from thaw.plugins.opening import open_one, recognize
from thaw.vllm.kv.record import KEY as SESSION

from . import census
from .drawing import bar, columns, facts, plain, say
from .output import Output
from .session_table import session_facts, session_table, sessions_of
from .shapes import InspectJSON, TensorJSON
from .table import describe
from .text import count, exact_size, power_size, shape, size

FEW, LARGEST, SHARES, TIES, KEYS, RANKS = 40, 10, 12, 8, 6, 16


def inspect(path: Path, output: Output, *, rank: int | None, sha256: bool, every: bool) -> None:
    """Show what is at a path; with `sha256`, verify it first and digest every tensor."""
    found, place = recognize(path)
    with ExitStack() as stack:
        opened = found.open(place) if rank is None else (open_one(found, place, rank),)
        snapshots = [stack.enter_context(each) for each in opened]
        checked = 0
        if sha256:
            from .hashing import add_sha256

            with output.progress("digesting", lambda: _total(snapshots)) as progress:
                checked = sum(found.verify(each, progress) for each in snapshots)
                document = describe(path, snapshots, checked)
                add_sha256(document["tensors"], snapshots, progress)
        else:
            document = describe(path, snapshots, checked)
        sessions = sessions_of(path, snapshots)
        if sessions:
            document["sessions"] = session_table(snapshots, sessions, document["tensors"])
        shown = session_facts(sessions[0]) if sessions else {}
        output.emit(document, lambda console: _show(console, document, snapshots, shown, every))


def _total(snapshots: Sequence[Snapshot]) -> int:
    chunks = (each.chunks.nbytes for s in snapshots for each in s.digests if each)
    unique = {
        (n, spec.layout): spec for n, s in enumerate(snapshots) for spec in s.tensors.values()
    }
    return sum(chunks) + sum(spec.nbytes for spec in unique.values())


def _show(
    console: Console,
    document: InspectJSON,
    snapshots: Sequence[Snapshot],
    session: Mapping[str, RenderableType],
    every: bool,
) -> None:
    told = _facts(document, snapshots, session)
    console.print(facts(Path(document["path"]).name or ".", told))
    if len(snapshots) > 1:
        _print(console, _ranks(document))
    if not document["tensors"]:
        return
    _shares(console, snapshots)
    _tied(console, census.ties(snapshots), every)
    rows = document["tensors"]
    if every or len(rows) <= FEW:
        _print(console, _listing("tensor", _in_file_order(rows, snapshots), snapshots))
    else:
        largest = sorted(rows, key=lambda row: -row["nbytes"])[:LARGEST]
        _print(console, _listing(f"largest of {len(rows):,}", largest, snapshots))
        say(console, Text("all of them: --tensors, or --json", "dim"))


def _print(console: Console, renderable: RenderableType) -> None:
    console.print()
    console.print(renderable)


def _facts(
    document: InspectJSON, snapshots: Sequence[Snapshot], session: Mapping[str, RenderableType]
) -> dict[str, RenderableType]:
    tensors, storages = len(document["tensors"]), document["storages"]
    version = f" {document['format_version']}" if document["format_version"] else ""
    rows: dict[str, RenderableType] = {
        "format": plain(f"{document['format']}{version}, {document['kind']}"),
        "size": Text(exact_size(document["file_nbytes"])),
        "tensors": Text(
            f"{count(tensors, 'tensor')} in {count(storages, 'storage')}, "
            f"{count(census.elements(snapshots), 'element')}, {size(document['nbytes'])}"
        ),
        "digests": _digests(document),
    }
    if place := _place(snapshots):
        rows["shard"] = Text(place)
    if producer := " ".join(str(value) for value in document["producer"].values()):
        rows["producer"] = plain(producer)
    if document["snapshot_id"]:
        rows["snapshot"] = plain(document["snapshot_id"])
    hidden = SESSION if session else None
    metadata = {key: each for key, each in document["metadata"].items() if key != hidden}
    if metadata:
        rows["metadata"] = _metadata(metadata)
    return rows | dict(session)


def _digests(document: InspectJSON) -> Text:
    if document["chunk_nbytes"] is None:
        return Text("none: this format cannot show that bytes are unchanged", "yellow")
    chunks = sum(each["chunks"] for each in document["ranks"])
    text = Text(f"CRC32C of {count(chunks, 'chunk')} of {power_size(document['chunk_nbytes'])}")
    if document["chunks_checked"]:
        text.append(", all checked", "green")
    return text


def _place(snapshots: Sequence[Snapshot]) -> str:
    if len(snapshots) > 1:
        return f"{len(snapshots)} ranks, each with its own shard"
    shard = snapshots[0].shard
    places = _parallelism(shard)
    if shard.size == 1 and not places:
        return ""
    return f"rank {shard.rank} of {shard.size}" + (f" ({places})" if places else "")


def _parallelism(shard: Shard) -> str:
    places = {"tp": shard.tp, "pp": shard.pp, "ep": shard.ep}
    return ", ".join(f"{name} {p.rank} of {p.size}" for name, p in places.items() if p)


def _metadata(metadata: dict[str, object]) -> Text:
    lines = [
        Text.assemble(plain(key, limit=40), " = ", plain(_value(value), "dim", 60))
        for key, value in list(metadata.items())[:KEYS]
    ]
    if len(metadata) > KEYS:
        lines.append(Text(f"and {len(metadata) - KEYS} more", "dim"))
    return Text("\n").join(lines)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ranks(document: InspectJSON) -> Table:
    table = columns("rank", "file", "tensors", "bytes", right=frozenset(("tensors", "bytes")))
    for each in document["ranks"][:RANKS]:
        names = ", ".join(Path(file).name for file in each["files"])
        table.add_row(f"{each['rank']}", plain(names), f"{each['tensors']:,}", size(each["nbytes"]))
    if (left := len(document["ranks"]) - RANKS) > 0:
        table.add_row("", Text(f"and {left:,} more", "dim"), "", "")
    return table


def _shares(console: Console, snapshots: Sequence[Snapshot]) -> None:
    dtypes, groups = census.by_dtype(snapshots), _fold(census.by_name(snapshots))
    label = min(max(len(plain(each.name, limit=32)) for each in (*dtypes, *groups)), 32)
    label = max(label, len("where the bytes are"))
    width = max(8, min(_room(console) - label - 37, 40))
    for title, shares in (("dtype", dtypes), ("where the bytes are", groups)):
        table = columns(title, "tensors", "bytes", "share", right=frozenset(("tensors", "bytes")))
        table.add_column()
        table.columns[0].min_width = label
        table.columns[1].min_width = table.columns[2].min_width = 8
        table.columns[3].justify = "right"
        whole = sum(each.nbytes for each in shares) or 1
        for each in shares:
            share = each.nbytes / whole
            table.add_row(
                plain(each.name, limit=32),
                f"{each.tensors:,}",
                size(each.nbytes),
                f"{share:.1%}",
                bar(console, share, width),
            )
        _print(console, table)


def _room(console: Console) -> int:
    return console.width if console.is_terminal else 80


def _fold(shares: list[census.Share]) -> list[census.Share]:
    """Sum up the smallest where there are too many."""
    if len(shares) <= SHARES:
        return shares
    rest = shares[SHARES - 1 :]
    name = f"{len(rest):,} others"
    tensors, nbytes = sum(each.tensors for each in rest), sum(each.nbytes for each in rest)
    return [*shares[: SHARES - 1], census.Share(name, tensors, nbytes)]


def _tied(console: Console, ties: list[census.Tie], every: bool) -> None:
    if not ties:
        return
    _print(console, Text("tied, stored once", "bold"))
    for tie in ties if every else ties[:TIES]:
        names = Text(" = ").join(plain(name) for name in tie.names)
        what = f"  {tie.spec.dtype_name} {shape(tie.spec.shape)}, {size(tie.spec.nbytes)}"
        say(console, names, Text(what, "dim"))
    if not every and len(ties) > TIES:
        say(console, Text(f"and {len(ties) - TIES:,} more", "dim"))


def _in_file_order(rows: Sequence[TensorJSON], snapshots: Sequence[Snapshot]) -> list[TensorJSON]:
    order = {
        (each.shard.rank, name): number
        for each in snapshots
        for number, name in enumerate(each.tensors)
    }
    return sorted(rows, key=lambda row: (row["rank"], order[row["rank"], row["name"]]))


def _listing(title: str, rows: Sequence[TensorJSON], snapshots: Sequence[Snapshot]) -> Table:
    ranked, digested = len(snapshots) > 1, "sha256" in rows[0]
    strided = any(not _is_dense(row) for row in rows)
    names = [title, "dtype", "shape", *(["stride"] if strided else []), "bytes"]
    names = [*(["rank"] if ranked else []), *names, *(["sha256"] if digested else [])]
    table = columns(*names, right=frozenset(("rank", "shape", "stride", "bytes")))
    for row in rows:
        cells: list[RenderableType] = [f"{row['rank']}"] if ranked else []
        cells += [plain(row["name"]), Text(row["dtype"], "green"), shape(row["shape"])]
        if strided:
            cells.append("" if _is_dense(row) else Text(shape(row["stride"]), "yellow"))
        cells.append(size(row["nbytes"]))
        if digested:
            cells.append(Text(row["sha256"][:12], "dim"))
        table.add_row(*cells)
    return table


def _is_dense(row: TensorJSON) -> bool:
    expected = 1
    for sizes, step in zip(reversed(row["shape"]), reversed(row["stride"]), strict=True):
        if sizes != 1 and step != expected:
            return 0 in row["shape"]
        expected *= sizes
    return True
