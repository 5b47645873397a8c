"""Draw the plots of the line-rate page."""

from __future__ import annotations

from bars import Bar, draw
from line_rate_results import LineRate


def restore_plot(found: LineRate) -> str:
    bars = []
    for first in found.contenders():
        again = found.find(first.raw["case"], "again")
        best = max(row.best_gbps for row in (first, again) if row)
        bars.append(Bar(" ".join(first.who), (first.gbps, best)))
    line = found.ceiling("tmpfs/h2d-pinned") or 0.0
    return draw("Restore from tmpfs to the device", "GB/s", ("first", "best"), bars, line)


def freeze_plot(found: LineRate) -> str:
    ours = [
        Bar(f"thaw {row.parts[2]}, {row.parts[1]}", (row.gbps,))
        for row in found.of("freeze")
        if row.raw["what"] == "first"
    ]
    others = [Bar(f"{row.parts[2]}, {row.parts[1]}", (row.gbps,)) for row in found.of("save")]
    return draw("Freeze from the device", "GB/s", ("first",), [*ours, *others], 0.0)
