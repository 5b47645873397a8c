"""What `engines.py` wrote: how comparisons ended, medians by shape, and the figures to reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

from line_rate_results import MIB, Figure

Row: TypeAlias = dict[str, Any]
SHAPE = "Llama-3.1-8B"
"""The shape that the figures to reach are about."""
OURS = {"thaw/tmpfs": "tmpfs", "thaw/page-cache": "the page cache"}


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """Where small models were compared."""

    device: str
    dtype: str
    ranks: int

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}, TP={self.ranks}"


def outcomes(files: Iterable[Row]) -> dict[tuple[str, str], dict[Column, list[Row]]]:
    """Arrange all comparisons by model and kind, and by where they ran."""
    found: dict[tuple[str, str], dict[Column, list[Row]]] = {}
    for raw in files:
        for row in raw.get("decoding", []):
            engine = row["engine"]
            column = Column(
                raw["versions"]["device"], engine["dtype"], engine.get("tensor_parallel_size", 1)
            )
            model = found.setdefault((_called(row), row["kind"]), {})
            model.setdefault(column, []).append(row)
    return dict(sorted(found.items()))


def _called(row: Row) -> str:
    """Name a model, and what vLLM quantized it to while it loaded it."""
    name, quantized = str(row["name"]), row["engine"].get("quantization")
    return f"{name} to {quantized}" if quantized and " to " not in name else name


class Shape:
    """All that was measured of one model in use."""

    def __init__(self, name: str, rows: Sequence[Row]) -> None:
        self.name = name
        self.rows = [row for row in rows if row["shape"] == name]

    def of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row["way"] == way]

    def ways(self, key: str) -> list[str]:
        """Return the ways that have a value, or failed before they had one, as they came."""
        return list(dict.fromkeys(row["way"] for row in self.rows if key in row or "error" in row))

    def values(self, way: str, key: str) -> list[float]:
        """Return a value of every repeat of a way; all of them where a row has a list."""
        found: list[float] = []
        for row in self.of(way):
            value = row.get(key, [])
            found += value if isinstance(value, list) else [value]
        return found

    def median(self, way: str, key: str) -> float | None:
        found = self.values(way, key)
        return median(found) if found else None

    @property
    def nbytes(self) -> int | None:
        """Return how many bytes a snapshot has."""
        return next((row["nbytes"] for row in self.rows if "nbytes" in row), None)

    def gbps(self, elapsed_s: float | None) -> float | None:
        return self.nbytes / elapsed_s / 1e9 if elapsed_s and self.nbytes else None

    def beyond_dummy(self, way: str) -> float | None:
        """Return how much longer `LLM()` took than with weights that nobody loads."""
        with_weights, without = (self.median(each, "engine_s") for each in (way, "dummy"))
        return None if with_weights is None or without is None else with_weights - without

    def plain_s(self) -> dict[str, list[float]]:
        """Return the seconds of plain writes, made between the freezes, by way."""
        found: dict[str, list[float]] = {}
        for row in self.of("freeze/tmpfs"):
            for way, times in row["plain_s"].items():
                found.setdefault(way, []).extend(times)
        return found

    def freeze_share(self) -> float | None:
        """Return how fast a freeze is beside the best plain way."""
        plain = [median(times) for times in self.plain_s().values() if times]
        ours = self.median("freeze/tmpfs", "samples_s")
        return min(plain) / ours if plain and ours else None

    def is_equal(self, *ways: str) -> bool | None:
        """Say whether all decoded what the first engine did; None where nothing was compared."""
        rows = [row for way in ways for row in self.of(way)]
        if any("error" in row or row.get("differences") for row in rows):
            return False
        return all(said) if (said := [row["equal"] for row in rows if "equal" in row]) else None

    def error(self, way: str) -> str:
        return next((str(row["error"]) for row in self.of(way) if "error" in row), "")


def shapes(rows: Sequence[Row]) -> list[Shape]:
    return [Shape(name, rows) for name in dict.fromkeys(row["shape"] for row in rows)]


def figures(shape: Shape) -> list[Figure]:
    """Say of each figure to reach what was found. What decodes other tokens reaches none."""
    found = []
    for way, place in OURS.items():
        gbps, same = shape.gbps(shape.median(way, "weights_s")), shape.is_equal(way)
        found.append(_at_least(45, "GB/s", f"weights from {place}", gbps, same))
        beyond, what = shape.beyond_dummy(way), "`LLM()` beyond dummy weights, snapshot in"
        found.append(_at_most(0.5, "s", f"{what} {place}", beyond, same))
    hot, same = shape.median("hot/pinned", "samples_s"), shape.is_equal("hot/pinned")
    found.append(_at_most(0.35, "s", "live engine, restored from pinned memory", hot, same))
    # What was frozen is right if what it was loaded to, and compared with, is.
    share, same = shape.freeze_share(), shape.is_equal("hot/tmpfs", *OURS)
    found.append(_at_least(0.95, "times the best plain writes", "freeze to tmpfs", share, same))
    extra = [value / MIB for way in OURS for value in shape.values(way, "torch_extra_nbytes")]
    what, most = (
        "torch's device memory beyond the weights while they load",
        max(extra, default=None),
    )
    found.append(_at_most(512, "MiB", what, most, shape.is_equal(*OURS)))
    return found


def _at_least(limit: float, unit: str, what: str, value: float | None, same: bool | None) -> Figure:
    reached = value is not None and value >= limit
    return _figure(f"{what}: at least {limit} {unit}", value, unit, reached, same)


def _at_most(limit: float, unit: str, what: str, value: float | None, same: bool | None) -> Figure:
    reached = value is not None and value <= limit
    return _figure(f"{what}: at most {limit} {unit}", value, unit, reached, same)


def _figure(what: str, value: float | None, unit: str, reached: bool, same: bool | None) -> Figure:
    if value is None:
        return Figure(what, "not measured", None)
    doubt = {True: "", False: ", but not equal", None: ", but not compared"}[same]
    return Figure(what, f"{value:.4g} {unit}{doubt}", reached and same is True)
