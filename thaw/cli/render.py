"""What people see."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from thaw_format import Snapshot

import thaw

_FEW, _LARGEST, _BAR = 40, 10, 24
_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(nbytes: float) -> str:
    """Write a number of bytes in decimal units."""
    for unit in _UNITS[:-1]:
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.2f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} TB"


def safe(text: object) -> Text:
    """Show text of a file without control characters, direction overrides or markup."""
    shown = "".join(
        f"\\u{{{ord(c):x}}}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
        for c in str(text)
    )
    return Text(shown)


def bar(share: float) -> str:
    """Draw a share of one as a bar."""
    full = round(share * _BAR)
    return "█" * full + "░" * (_BAR - full)


def _console() -> Console:
    return Console(highlight=False)


def inspected(
    path: Path, snapshots: Sequence[Snapshot], rows: Sequence[Mapping[str, Any]], *, every: bool
) -> None:
    """Show what a snapshot holds."""
    console = _console()
    console.print(_header(path, snapshots, rows))
    for title, key in (("dtype", "dtype"), ("where the bytes are", None)):
        console.print()
        console.print(_shares(title, rows, key))
    if tied := _tied(snapshots):
        console.print()
        console.print(Text("tied tensors", "bold"))
        for group in tied:
            console.print(Text("  ") + safe(" = ".join(group)))
    console.print()
    few = every or len(rows) <= _FEW
    chosen = rows if few else sorted(rows, key=lambda r: -int(r["nbytes"]))[:_LARGEST]
    title = "tensors" if few else f"largest {_LARGEST} of {len(rows):,} tensors"
    console.print(_listing(title, chosen))


def _header(path: Path, snapshots: Sequence[Snapshot], rows: Sequence[Mapping[str, Any]]) -> Table:
    first = snapshots[0]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    nbytes = sum(each.nbytes for each in snapshots)
    facts: dict[str, object] = {
        "file": path,
        "format": first.format,
        "kind": first.kind,
        "size": f"{size(sum(each.file_nbytes for each in snapshots))}, tensors {size(nbytes)}",
        "tensors": f"{len(rows):,} in {sum(len(each.storages) for each in snapshots):,} storages",
        "ranks": len(snapshots),
        "digests": _digests(first),
        "snapshot": first.snapshot_id or "-",
        "producer": " ".join(str(value) for value in first.producer.values()) or "-",
    }
    for key, value in facts.items():
        table.add_row(key, safe(value))
    return table


def _digests(snapshot: Snapshot) -> str:
    found = snapshot.digests[0] if snapshot.digests else None
    if found is None:
        return "none: this format cannot show that bytes are unchanged"
    return f"CRC32C of {len(found.chunks):,} chunks of {size(found.chunks.chunk_nbytes)}"


def _shares(title: str, rows: Sequence[Mapping[str, Any]], key: str | None) -> Table:
    totals: Counter[str] = Counter()
    for row in rows:
        name = str(row[key]) if key else _group(str(row["name"]))
        totals[name] += int(row["nbytes"])
    whole = sum(totals.values()) or 1
    table = Table(box=None, pad_edge=False, title=None)
    table.add_column(title, header_style="bold", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for name, nbytes in totals.most_common(12):
        table.add_row(safe(name), bar(nbytes / whole), f"{nbytes / whole:.1%}", size(nbytes))
    return table


def _group(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.count(".") > 1 else name.split(".", maxsplit=1)[0]


def _tied(snapshots: Sequence[Snapshot]) -> list[list[str]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for snapshot in snapshots:
        for name, spec in snapshot.tensors.items():
            if spec.extent:
                groups[snapshot.shard.rank, spec.layout].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _listing(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title, header_style="bold", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape", justify="right")
    table.add_column("bytes", justify="right", no_wrap=True)
    for row in rows:
        shape = " x ".join(map(str, row["shape"])) or "scalar"
        table.add_row(safe(row["name"]), row["dtype"], shape, size(row["nbytes"]))
    return table


def converted(report: thaw.ConvertReport) -> None:
    """Show what was written."""
    console = _console()
    rate = f"{report.elapsed_s:.2f} s, {report.gbps:.2f} GB/s, backend {report.backend}"
    console.print(f"{report.tensors:,} tensors, {size(report.nbytes)} in {rate}")
    for file in report.files:
        console.print(Text("  ") + safe(file))


def verified(report: thaw.VerifyReport) -> None:
    """Show what was verified."""
    checked = f"{report.chunks_checked:,} chunks checked"
    if not report.has_digests:
        checked = "header checked; this format has no digests, its bytes cannot be verified"
    ranks = f", {report.ranks} ranks" if report.ranks > 1 else ""
    line = f"ok: {report.tensors:,} tensors{ranks}, {size(report.nbytes)}, {checked}"
    _console().print(line, soft_wrap=True)


def compared(found: thaw.Difference) -> None:
    """Show how two snapshots differ."""
    console = _console()
    for label, names in (("only in a", found.only_in_a), ("only in b", found.only_in_b)):
        for name in names:
            console.print(Text(f"{label}: ") + safe(name), soft_wrap=True)
    for each in found.changed:
        line = f"{each.name}: {each.what} differs: {each.a} and {each.b}"
        console.print(safe(line), soft_wrap=True)
    if found.identical:
        console.print(f"identical: {found.tensors_compared:,} tensors, bit by bit")


def listed_backends(found: Sequence[thaw.BackendInfo]) -> None:
    """Show the backends."""
    table = Table(box=None, pad_edge=False)
    for column in ("backend", "device", "usable", "path", "reason", "from"):
        table.add_column(column, header_style="bold", overflow="fold")
    for each in found:
        if each.error is not None:
            table.add_row(safe(each.name), "", "broken", "", safe(each.error), each.distribution)
        for device, support in each.support.items():
            usable = "yes" if support.available else "no"
            table.add_row(
                each.name, device, usable, support.path, safe(support.reason), each.distribution
            )
    _console().print(table)


def listed_formats(found: Sequence[thaw.FormatInfo]) -> None:
    """Show the formats."""
    table = Table(box=None, pad_edge=False)
    for column in ("format", "suffix", "description", "from"):
        table.add_column(column, header_style="bold", overflow="fold")
    for each in found:
        text = safe(f"broken: {each.error}" if each.error else each.description)
        table.add_row(safe(each.name), " ".join(each.suffixes), text, each.distribution)
    _console().print(table)
