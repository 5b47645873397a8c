"""What engines did: how comparisons ended, medians by shape, and the figures to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from results import MIB, Figure, Row, at_least, at_most, none_of, part_of

SHAPE = "Llama-3.1-8B"
"""The shape that the figures to reach are about."""
REACH, FAULT_S = 0.80, 30
RESTORES = (
    *("restore, tmpfs, first", "restore, tmpfs, again"),
    *("restore, page-cache, again", "restore, pinned"),
)
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
        for row in part_of(raw["rows"], "decoding"):
            engine = row["engine"]
            column = Column(
                raw["versions"]["device"], engine["dtype"], engine.get("tensor_parallel_size", 1)
            )
            model = found.setdefault((_called(row), row["kind"]), {})
            model.setdefault(column, []).append(row)
    return dict(sorted(found.items()))


def _called(row: Row) -> str:
    """Name a model, and what vLLM quantized it to while it loaded it."""
    name, quantized = str(row["case"]), row["engine"].get("quantization")
    return f"{name} to {quantized}" if quantized and " to " not in name else name


class Shape:
    """All that was measured of one model in use."""

    def __init__(self, name: str, rows: Sequence[Row]) -> None:
        self.name = name
        self.rows = [row for row in rows if row["shape"] == name]

    def of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row["case"] == way]

    def ways(self, key: str) -> list[str]:
        """Return the ways that have a value, or failed before they had one, as they came."""
        return list(dict.fromkeys(row["case"] for row in self.rows if key in row or "error" in row))

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


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Say of each figure to reach what was found, as far as its part was measured."""
    decoding, modes, faults, sessions = (
        part_of(rows, part) for part in ("decoding", "modes", "faults", "session models")
    )
    found = []
    for name, some in (
        ("comparisons that fail or in which something differs", decoding),
        ("modes that fail or in which something differs", modes),
        (f"faults that hang, say nothing or end later than in {FAULT_S} s", faults),
        ("models and modes whose sessions serve other bits than a prefix hit", sessions),
    ):
        if some:
            found.append(none_of(name, some, (row for row in some if not row["passed"])))
    starts = Shape(SHAPE, part_of(rows, "starts"))
    return [*found, *(_of_starts(starts) if starts.rows else ()), *_of_buses(rows)]


def _of_starts(shape: Shape) -> Iterator[Figure]:
    """Judge starts, freezes and hot restores. What decodes other tokens reaches none."""
    for way, place in OURS.items():
        gbps, same = shape.gbps(shape.median(way, "weights_s")), shape.is_equal(way)
        yield _judged(at_least, f"weights from {place}", 45, "GB/s", gbps, same)
        beyond, what = shape.beyond_dummy(way), "`LLM()` beyond dummy weights, snapshot in"
        yield _judged(at_most, f"{what} {place}", 0.5, "s", beyond, same)
    hot, same = shape.median("hot/pinned", "samples_s"), shape.is_equal("hot/pinned")
    yield _judged(at_most, "live engine, restored from pinned memory", 0.35, "s", hot, same)
    # What was frozen is right if what it was loaded to, and compared with, is.
    share, same = shape.freeze_share(), shape.is_equal("hot/tmpfs", *OURS)
    unit = "times the best plain writes"
    yield _judged(at_least, "freeze to tmpfs", 0.95, unit, share, same)
    extra = [value / MIB for way in OURS for value in shape.values(way, "torch_extra_nbytes")]
    what, most = (
        "torch's device memory beyond the weights while they load",
        max(extra, default=None),
    )
    yield _judged(at_most, what, 512, "MiB", most, shape.is_equal(*OURS))


def _judged(
    judge: Callable[..., Figure],
    name: str,
    aim: float,
    unit: str,
    found: float | None,
    same: bool | None,
) -> Figure:
    doubt = {True: "", False: "but not equal", None: "but not compared"}[same]
    return judge(f"{SHAPE}, {name}", aim, unit, found, right=same is True, note=doubt)


def bus_gbps(rows: Sequence[Row]) -> float | None:
    """Return what both buses move at once."""
    return together_gbps(rows).get("pinned copies")


def together_gbps(rows: Sequence[Row]) -> dict[str, float]:
    """Return what both ranks moved, by way."""
    together = part_of(rows, "together")
    return {row["case"]: float(median(row["together_gbps"])) for row in together}


def _of_buses(rows: Sequence[Row]) -> Iterator[Figure]:
    """Judge what two ranks restore at once."""
    rates = together_gbps(rows)
    reads = rates.get("reads alone, tmpfs")
    for way in RESTORES:
        if way in rates and (bus := bus_gbps(rows)):
            beside = f"{rates[way] / reads:.2f} of reads alone" if reads else ""
            note = "" if "pinned" in way else beside
            name, unit = f"both ranks at once, {way}", "of the buses"
            yield at_least(name, REACH, unit, rates[way] / bus, note=note)
