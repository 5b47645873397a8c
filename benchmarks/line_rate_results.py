"""The results of the line-rate benchmark: rows, ceilings, and the figures to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One row and the ceiling that was measured for it."""

    raw: dict[str, Any]
    ceiling_gbps: float | None

    @property
    def parts(self) -> list[str]:
        parts: list[str] = self.raw["case"].split("/")
        return parts

    @property
    def who(self) -> tuple[str, str]:
        """Name the loader and its setting."""
        if self.parts[0] == "peer":
            return self.parts[2], self.parts[3]
        return "thaw", f"backend {self.parts[2]}"

    @property
    def median_s(self) -> float:
        return float(median(self.raw["samples_s"]))

    @property
    def gbps(self) -> float:
        return float(self.raw["nbytes"] / self.median_s / 1e9)

    @property
    def best_gbps(self) -> float:
        return float(self.raw["nbytes"] / min(self.raw["samples_s"]) / 1e9)

    @property
    def share(self) -> float | None:
        return self.gbps / self.ceiling_gbps if self.ceiling_gbps else None


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to reach, what was found, and whether it is enough; None if not measured."""

    what: str
    found: str
    reached: bool | None


class LineRate:
    """What `line_rate.py` wrote about one machine: the newest, or that of a boot id."""

    def __init__(self, raw: dict[str, Any], boot: str | None = None) -> None:
        boot, self.raw = boot or raw["runs"][-1]["boot"], raw
        self.runs = [run for run in raw["runs"] if run["boot"] == boot]
        mine = (row for row in raw["rows"] if raw["runs"][row["run"]]["boot"] == boot)
        self.rows = [Measured(row, self._ceiling(row)) for row in mine]

    def ceiling(self, name: str) -> float | None:
        """Return a ceiling, like `tmpfs/write`, from the newest run that has it."""
        return self._ceiling({"ceiling": name, "run": -1})

    def _ceiling(self, row: dict[str, Any]) -> float | None:
        """Prefer what was measured between the row's samples, then in the row's own run."""
        if not row["ceiling"]:
            return None
        if plain := row.get("plain_s"):
            return float(row["nbytes"] / min(map(median, plain.values())) / 1e9)
        place, _, name = row["ceiling"].partition("/")
        own = self.raw["runs"][row["run"]]
        for run in (own, *reversed(self.runs)):
            for each in run["ceilings"].get(place, ()):
                if each["name"] == name and each["gbps"] is not None:
                    return float(each["gbps"])
        return None

    def find(self, case: str, what: str) -> Measured | None:
        rows = (row for row in self.rows if (row.raw["case"], row.raw["what"]) == (case, what))
        return next(rows, None)

    def of(self, *actions: str) -> list[Measured]:
        return [row for row in self.rows if row.parts[0] in actions]

    def contenders(self) -> list[Measured]:
        """Return the first samples of every loader that read from tmpfs, ours before the others."""
        ours = [row for row in self.of("restore") if row.parts[1] == "tmpfs"]
        return [row for row in (*ours, *self.of("peer")) if row.raw["what"] == "first"]

    def figures(self) -> list[Figure]:
        rate = self._rate
        host = ("anonymous_nbytes", "machine_nbytes")
        return [
            rate("tmpfs to device, first: at least 45 GB/s", "restore/tmpfs/native", "first", 45),
            rate("tmpfs to device, again: at least 50 GB/s", "restore/tmpfs/native", "again", 50),
            rate(
                "warm page cache to device, again: at least 50 GB/s",
                "restore/page-cache/native",
                "again",
                50,
            ),
            rate("pinned, then restored: at least 53 GB/s", "restore/pinned/native", "again", 53),
            rate("pinning itself: at least 15 GB/s", "restore/pinned/native", "pin", 15),
            self._of_ceiling("cold disk to device", "restore/cold-disk/native", 0.97),
            self._of_ceiling("freeze to tmpfs", "freeze/tmpfs/native", 0.95),
            self._of_ceiling("freeze to disk", "freeze/disk/native", 0.95),
            self._times(
                f"{self.raw['settings']['count']:,} tensors: within 1.3 times the time of few",
                ("many/tmpfs/native", "again"),
                ("restore/tmpfs/native", "again"),
                1.3,
            ),
            *(self._checkpoint(what) for what in ("again", "into")),
            self._peak("device memory beyond the tensors: at most 256 MiB", 256, "device_nbytes"),
            self._peak("host memory beyond what was there: at most 512 MiB", 512, *host),
        ]

    def _rate(self, what: str, case: str, sample: str, least: float) -> Figure:
        def judge(row: Measured) -> tuple[str, bool]:
            return f"{row.gbps:.1f} GB/s{self._alone(row)}", row.gbps >= least

        return self._judge(what, self.find(case, sample), judge)

    def _alone(self, row: Measured) -> str:
        """Say what the two halves of a restore from a file reach when the other one rests."""
        action, place, *_ = row.parts
        folder = {"tmpfs": "tmpfs", "page-cache": "disk"}.get(place) if action == "restore" else ""
        bus, reads = (
            self.ceiling(f"{folder}/{name}") for name in ("h2d-pinned", "read-page-cache")
        )
        return f" (bus alone {bus:.1f}, reads alone {reads:.1f})" if bus and reads else ""

    def _of_ceiling(self, what: str, case: str, least: float) -> Figure:
        what = f"{what}: at least {least:.2f} of the ceiling"
        row = self._joined(case)
        if row is None or row.share is None:
            return Figure(what, "not measured", None)
        found = f"{row.share:.2f} ({row.gbps:.2f} of {row.ceiling_gbps:.2f} GB/s)"
        return Figure(what, found, row.share >= least and row.raw["identical"])

    def _joined(self, case: str) -> Measured | None:
        """Join the first sample and the later ones where each has plain transfers beside it.

        Elsewhere later samples, where there are any, are free of what only the first pays.
        """
        rows = [row for what in ("first", "again") if (row := self.find(case, what))]
        if not rows or not all(row.raw.get("plain_s") for row in rows):
            return rows[-1] if rows else None
        raw, plain = rows[0].raw, [row.raw["plain_s"] for row in rows]
        joined = raw | {
            "samples_s": [sample for row in rows for sample in row.raw["samples_s"]],
            "plain_s": {way: [s for each in plain for s in each[way]] for way in raw["plain_s"]},
            "identical": all(row.raw["identical"] for row in rows),
        }
        return Measured(joined, self._ceiling(joined))

    def _checkpoint(self, what: str) -> Figure:
        named = f"safetensors checkpoint, {what}: within 1.05 times `.thaw` without digests"

        def judge(row: Measured) -> tuple[str, bool]:
            times = row.median_s / min(map(median, row.raw["plain_s"].values()))
            return f"{times:.2f} times", times <= 1.05

        row = self.find("checkpoint/tmpfs/native", what)
        return self._judge(named, row if row and row.raw.get("plain_s") else None, judge)

    def _times(
        self, what: str, slow: tuple[str, str], quick: tuple[str, str], most: float
    ) -> Figure:
        base = self.find(*quick)
        if base is None:
            return Figure(what, "not measured", None)
        base_s = base.median_s
        return self._judge(
            what,
            self.find(*slow),
            lambda r: (f"{r.median_s / base_s:.2f} times", r.median_s <= most * base_s),
        )

    def _peak(self, what: str, most_mib: float, *keys: str) -> Figure:
        rows = [row for row in self.rows if row.raw["memory"] and row.parts[-1] == "native"]
        if not rows:
            return Figure(what, "not measured", None)
        peak, case = max((row.raw["memory"][key], row.raw["case"]) for row in rows for key in keys)
        return Figure(what, f"{peak / MIB:.0f} MiB ({case})", peak <= most_mib * MIB)

    @staticmethod
    def _judge(
        what: str, row: Measured | None, judge: Callable[[Measured], tuple[str, bool]]
    ) -> Figure:
        if row is None:
            return Figure(what, "not measured", None)
        found, reached = judge(row)
        # Fast and wrong is not reached.
        return Figure(what, found, reached and row.raw["identical"] is not False)


def machines(raw: dict[str, Any]) -> list[LineRate]:
    """Return what each machine measured, the newest first."""
    boots = dict.fromkeys(run["boot"] for run in reversed(raw["runs"]))
    return [LineRate(raw, boot) for boot in boots]
