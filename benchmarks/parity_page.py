"""Make a section of benchmarks/line_rate.md from results/parity.json alone."""

from __future__ import annotations

import json
from pathlib import Path

from tables import cell, described, table

_NOTE = """\
The tests that need a GPU: every backend reads what every other wrote, by plans that are drawn at
random too, and its bytes and digests are compared with those of the reference; damaged, shortened
and replaced files; what the system refuses. `scripts/gpu/check.py` runs them."""


def section(results: Path) -> list[str]:
    """Return the lines of the section; none if nothing was run."""
    file = results / "parity.json"
    if not file.exists():
        return []
    raw = json.loads(file.read_text())
    facts = {key: value for key, value in raw["machine"].items() if key != "versions"}
    rows = [
        (
            f"`{backend}`",
            device,
            *(f"{tally[key]:,}" for key in ("passed", "failed", "skipped")),
            cell("; ".join(tally["reasons"])),
        )
        for backend, devices in raw["results"].items()
        for device, tally in devices.items()
    ]
    return [
        "## Parity of the backends",
        "",
        f"Machine: {described(facts | raw['machine']['versions'])}.",
        f"Raw results: [results/{file.name}](results/{file.name}), "
        + ("complete." if raw["complete"] else "**cut short**."),
        _NOTE,
        "",
        *table(("backend", "device", "passed", "failed", "skipped", "why skipped"), rows),
    ]
