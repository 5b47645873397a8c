"""Make a page from what `thaw bench --output` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "native_cpu.json"
COMMAND = "thaw bench MODEL --backend reference --backend native --device cpu --output FILE"
NOTE = """\
*restore first* is that of a fresh process; *again* takes new memory each time, whose first touch
costs more than the copy; *into* fills tensors that are there. A restore does what a memcpy does,
and checks every chunk on the way."""


def files(results: Path = RESULTS, folder: Path = HERE) -> dict[Path, str]:
    """Return what the page holds, by path; nothing where nothing was measured."""
    if not results.exists():
        return {}
    return {folder / "native_cpu.md": page(json.loads(results.read_text()))}


def page(found: dict[str, Any]) -> str:
    machine, snapshot = found["machine"], found["snapshot"]
    facts = ("cpu", "cores", "memory_nbytes", "kernel", "python", "torch")
    lines = [
        "# The native backend on the CPU, beside the reference",
        "",
        f"Made by `benchmarks/make_pages.py` from what `{COMMAND}` wrote; do not edit.",
        "",
        f"{snapshot['nbytes'] / 1e9:.1f} GB in {snapshot['tensors']} tensors on "
        f"{found['folder_filesystem']}, page cache warm, digests on, {found['repeat']} runs, "
        f"commit {found['commit']}, {found['date']}. Machine: "
        + ", ".join(f"{key} {machine[key]}" for key in facts)
        + ". Raw results: [results/native_cpu.json](results/native_cpu.json).",
        "",
        "| ceiling | GB/s |",
        "|---|---|",
        *(f"| {each['name']} | {each['gbps']:.2f} |" for each in found["ceilings"] if each["gbps"]),
        "",
        "| operation | backend | median s | spread s | GB/s | share | of | beside the reference |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(row, found["rows"]) for row in sorted(found["rows"], key=lambda r: r["operation"])),
        "",
        NOTE,
        "",
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    times = row["elapsed_s"]
    base = next(
        each
        for each in rows
        if (each["backend"], each["operation"]) == ("reference", row["operation"])
    )
    rate = median(base["elapsed_s"]) / median(times)
    same = "" if row["identical"] else " **bytes differ**"
    return (
        f"| {row['operation']} | {row['backend']}{same} | {median(times):.3f} "
        f"| {min(times):.3f} to {max(times):.3f} | {row['gbps']:.2f} | {row['share']:.2f} "
        f"| {row['ceiling']} | {rate:.2f} times |"
    )
