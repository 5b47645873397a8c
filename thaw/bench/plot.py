"""A plot of the benchmark, from its JSON document alone: `python -m thaw.bench.plot IN OUT`."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .shapes import BenchJSON, RowJSON
from .task import OPERATIONS

SUFFIXES = (".svg", ".png")
NEEDED = "drawing needs matplotlib: pip install 'thaw-snapshot[bench]'"
_BAR_INCHES, _FRAME_INCHES = 0.3, 1.1
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def can_draw() -> bool:
    """Say whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(found: BenchJSON, path: Path) -> None:
    """Draw the speed of every backend, grouped by operation, with its ceiling as a line.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not can_draw():
        raise ModuleNotFoundError(NEEDED)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = _groups(found)
    bars = [len(rows) for rows in groups.values()] or [1]
    height = _FRAME_INCHES + sum(_BAR_INCHES * count + 0.45 for count in bars)
    with mpl.rc_context({"svg.hashsalt": "thaw", "font.size": 9}):
        figure = Figure(figsize=(9, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(bars), 1, sharex=True, squeeze=False, height_ratios=bars)
        for axis, (operation, rows) in zip(axes[:, 0], groups.items(), strict=False):
            _draw_group(axis, operation, rows, found)
        _finish(figure, axes[-1, 0], found)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def _groups(found: BenchJSON) -> dict[str, list[RowJSON]]:
    groups = {
        operation: [row for row in found["rows"] if row["operation"] == operation and row["gbps"]]
        for operation in OPERATIONS
    }
    return {operation: rows for operation, rows in groups.items() if rows}


def _draw_group(axis: Any, operation: str, rows: list[RowJSON], found: BenchJSON) -> None:
    order = list(dict.fromkeys(row["backend"] for row in found["rows"]))
    places = range(len(rows))
    colors = [_COLORS[order.index(row["backend"]) % len(_COLORS)] for row in rows]
    axis.barh(places, [row["gbps"] for row in rows], color=colors, height=0.72)
    axis.set_yticks(places, [row["backend"] for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_title(_title(operation, rows, found), loc="left", fontsize=9, fontweight="bold")
    for place, row in zip(places, rows, strict=True):
        _draw_spread(axis, place, row)
        axis.annotate(
            _label(row),
            (max(row["nbytes"] / min(row["elapsed_s"]) / 1e9, row["gbps"] or 0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    if (limit := _limit(rows, found)) is not None:
        axis.axvline(limit, color="black", linewidth=1.2, linestyle="--", zorder=1.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _draw_spread(axis: Any, place: int, row: RowJSON) -> None:
    rates = [row["nbytes"] / each / 1e9 for each in row["elapsed_s"]]
    axis.hlines(place, min(rates), max(rates), color="black", linewidth=1.5, alpha=0.6)


def _title(operation: str, rows: list[RowJSON], found: BenchJSON) -> str:
    limit = _limit(rows, found)
    return operation if limit is None else f"{operation}: {rows[0]['ceiling']} {limit:.1f} GB/s"


def _limit(rows: list[RowJSON], found: BenchJSON) -> float | None:
    known = {each["name"]: each["gbps"] for each in found["ceilings"]}
    return known.get(rows[0]["ceiling"])


def _label(row: RowJSON) -> str:
    share = f" ({row['share']:.0%})" if row["share"] is not None else ""
    wrong = " NOT IDENTICAL" if row["identical"] is False else ""
    path = f"  {row['route']}" if row["route"] else ""
    return f"{row['gbps']:.1f}{share}{path}{wrong}"


def _finish(figure: Any, last: Any, found: BenchJSON) -> None:
    machine, snapshot = found["machine"], found["snapshot"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    figure.suptitle(
        f"{Path(snapshot['path']).name}: {snapshot['nbytes'] / 1e9:.1f} GB, "
        f"{snapshot['tensors']:,} tensors, on {where}",
        fontsize=10,
    )
    last.set_xlabel("GB/s, median of the runs and their spread; dashed: what this machine can do")
    last.set_xlim(0, last.get_xlim()[1] * 1.15)


def main() -> None:
    """Draw a document that was written before."""
    source, destination = map(Path, sys.argv[1:3])
    draw(json.loads(source.read_text()), destination)


if __name__ == "__main__":
    main()
