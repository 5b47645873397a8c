"""The benchmark as people read it."""

from __future__ import annotations

from statistics import median

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from thaw.bench.shapes import BenchJSON, CeilingJSON, RowJSON

from .drawing import bar, columns, facts, plain, say, verdict
from .text import count, size

_BAR = 16


def show(console: Console, found: BenchJSON) -> None:
    """Print where it was measured, the ceilings, and every backend's share of them."""
    console.print(facts("thaw bench", _facts(found)))
    console.print()
    console.print(_ceilings(found))
    console.print()
    console.print(_rows(console, found))
    for row in found["rows"]:
        if row["error"] is not None:
            mark = verdict(console, False if row["available"] else None)
            name = plain(f"{row['backend']}, {row['operation']}: ", "bold")
            say(console, mark, name, plain(row["error"]))


def _facts(found: BenchJSON) -> dict[str, RenderableType]:
    machine, snapshot = found["machine"], found["snapshot"]
    memory = size(machine["memory_nbytes"])
    rows: dict[str, RenderableType] = {
        "snapshot": plain(
            f"{snapshot['path']}: {count(snapshot['tensors'], 'tensor')}, "
            f"{size(snapshot['nbytes'])}"
        ),
        "machine": plain(f"{machine['cpu']}, {count(machine['cores'], 'core')}, {memory}"),
    }
    if machine["gpu"]:
        driver = f", driver {machine['driver']}" if machine["driver"] else ""
        rows["gpu"] = plain(f"{machine['gpu']}{driver}")
    rows["folder on"] = plain(found["folder_filesystem"] or "an unknown file system")
    rows["versions"] = plain(
        f"thaw {found['thaw']}, torch {machine['torch']}, Linux {machine['kernel']}"
    )
    return rows


def _ceilings(found: BenchJSON) -> Table:
    table = columns("ceiling", "GB/s", "spread", "best by", right=frozenset(("GB/s", "spread")))
    for each in found["ceilings"]:
        rate, spread, how = _best(each)
        table.add_row(plain(each["name"], "bold"), rate, spread, how)
    return table


def _best(each: CeilingJSON) -> tuple[Text, Text, Text]:
    for way in each["detail"]:
        if way["gbps"] is not None and way["gbps"] == each["gbps"]:
            spread = f"{way['lowest']:.2f} to {way['highest']:.2f}"
            return Text(f"{way['gbps']:.2f}"), Text(spread, "dim"), plain(way["how"])
    reasons = dict.fromkeys(way["reason"] for way in each["detail"] if way["reason"])
    return Text("-"), Text(), plain("; ".join(map(str, reasons)), "yellow")


def _rows(console: Console, found: BenchJSON) -> Table:
    right = frozenset(("seconds", "spread", "GB/s", "share"))
    names = ("backend", "operation", "route", "seconds", "spread", "GB/s", "share", "of", "bytes")
    table = columns(*names, right=right)
    before = ""
    for row in found["rows"]:
        name = plain("" if row["backend"] == before else row["backend"], "bold")
        before = row["backend"]
        if not row["available"]:
            table.add_row(name, Text("not available", "yellow"))
            continue
        table.add_row(name, plain(row["operation"]), plain(row["route"]), *_figures(row, console))
    return table


def _figures(row: RowJSON, console: Console) -> list[RenderableType]:
    if not row["elapsed_s"]:
        return ["-", "", "-", "", "", Text.assemble(verdict(console, False), "failed")]
    seconds = row["elapsed_s"]
    figures: list[RenderableType] = [
        f"{median(seconds):.3f}",
        Text(f"{min(seconds):.3f} to {max(seconds):.3f}", "dim"),
        f"{row['gbps']:.2f}",
    ]
    if row["share"] is None:
        figures += ["", ""]
    else:
        drawn = bar(console, min(1.0, row["share"]), _BAR)
        drawn.pad_right(_BAR + 1 - len(drawn))
        figures += [f"{row['share']:.0%}", Text.assemble(drawn, plain(row["ceiling"], "dim"))]
    words = {True: "identical", False: "different", None: ""}
    mark = Text.assemble(verdict(console, row["identical"]), words[row["identical"]])
    return [*figures, mark if row["identical"] is not None else Text()]
