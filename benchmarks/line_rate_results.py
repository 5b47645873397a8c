"""The results of the line-rate benchmark: rows, ceilings, and the figures to reach."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from results import MIB, Figure, Row, at_least, at_most


@dataclass(frozen=True, slots=True)
class Measured:
    """One row and the ceiling that was measured for it."""

    raw: Row
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
    def right(self) -> bool:
        return self.raw["identical"] is not False

    @property
    def share(self) -> float | None:
        return self.gbps / self.ceiling_gbps if self.ceiling_gbps else None


class LineRate:
    """What `line_rate.py` wrote about one machine: the newest, or that of a boot id."""

    def __init__(self, raw: Row, boot: str | None = None) -> None:
        boot, self.raw = boot or raw["runs"][-1]["boot"], raw
        self.runs = {at: run for at, run in enumerate(raw["runs"]) if run["boot"] == boot}
        mine = [row for row in raw["rows"] if row["run"] in self.runs]
        self.ceilings = [row for row in mine if "gbps" in row]
        self.rows = [Measured(row, self._ceiling(row)) for row in mine if "samples_s" in row]

    def ceiling(self, name: str) -> float | None:
        """Return a ceiling, like `tmpfs/write`, from the newest run that has it."""
        return self._ceiling({"ceiling": name, "run": max(self.runs)})

    def _ceiling(self, row: Row) -> float | None:
        """Prefer what was measured between the row's samples, then in the row's own run."""
        if not row["ceiling"]:
            return None
        if plain := row.get("plain_s"):
            return float(row["nbytes"] / min(map(median, plain.values())) / 1e9)
        named = {
            each["run"]: float(each["gbps"])
            for each in self.ceilings
            if f"{each['case']}/{each['what']}" == f"ceilings/{row['ceiling']}" and each["gbps"]
        }
        return named.get(row["run"], named[max(named)]) if named else None

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
        count, host = self.raw["settings"]["count"], ("anonymous_nbytes", "machine_nbytes")
        return [
            self._rate("tmpfs to device, first", "restore/tmpfs/native", "first", 45),
            self._rate("tmpfs to device, again", "restore/tmpfs/native", "again", 50),
            self._rate(
                "warm page cache to device, again", "restore/page-cache/native", "again", 50
            ),
            self._rate("pinned, then restored", "restore/pinned/native", "again", 53),
            self._rate("pinning itself", "restore/pinned/native", "pin", 15),
            self._of_ceiling("cold disk to device", "restore/cold-disk/native", 0.97),
            self._of_ceiling("freeze to tmpfs", "freeze/tmpfs/native", 0.95),
            self._of_ceiling("freeze to disk", "freeze/disk/native", 0.95),
            self._times(f"{count:,} tensors"),
            *(self._checkpoint(what) for what in ("again", "into")),
            self._peak("device memory beyond the tensors", 256, "device_nbytes"),
            self._peak("host memory beyond what was there", 512, *host),
        ]

    def _rate(self, name: str, case: str, sample: str, aim: float) -> Figure:
        row = self.find(case, sample)
        if row is None:
            return at_least(name, aim, "GB/s", None)
        return at_least(name, aim, "GB/s", row.gbps, right=row.right, note=self._alone(row))

    def _alone(self, row: Measured) -> str:
        """Say what the two halves of a restore from a file reach when the other one rests."""
        action, place, *_ = row.parts
        folder = {"tmpfs": "tmpfs", "page-cache": "disk"}.get(place) if action == "restore" else ""
        bus, reads = (
            self.ceiling(f"{folder}/{name}") for name in ("h2d-pinned", "read-page-cache")
        )
        return f"bus alone {bus:.1f}, reads alone {reads:.1f}" if bus and reads else ""

    def _of_ceiling(self, name: str, case: str, aim: float) -> Figure:
        row = self._joined(case)
        if row is None or row.share is None:
            return at_least(name, aim, "of the ceiling", None)
        note = f"{row.gbps:.2f} of {row.ceiling_gbps:.2f} GB/s"
        right = bool(row.raw["identical"])
        return at_least(name, aim, "of the ceiling", row.share, right=right, note=note)

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
        name, unit = f"safetensors checkpoint, {what}", "times `.thaw` without digests"
        row = self.find("checkpoint/tmpfs/native", what)
        if row is None or not row.raw.get("plain_s"):
            return at_most(name, 1.05, unit, None)
        beside = min(map(median, row.raw["plain_s"].values()))
        return at_most(name, 1.05, unit, row.median_s / beside, right=row.right)

    def _times(self, name: str) -> Figure:
        unit = "times the time of few"
        many, few = (self.find(f"{each}/tmpfs/native", "again") for each in ("many", "restore"))
        if many is None or few is None:
            return at_most(name, 1.3, unit, None)
        return at_most(name, 1.3, unit, many.median_s / few.median_s, right=many.right)

    def _peak(self, name: str, aim: float, *keys: str) -> Figure:
        rows = [row for row in self.rows if row.raw["memory"] and row.parts[-1] == "native"]
        peaks = [(row.raw["memory"][key] / MIB, row.raw["case"]) for row in rows for key in keys]
        found, case = max(peaks, default=(None, ""))
        return at_most(name, aim, "MiB", found, note=case)


def machines(raw: Row) -> list[LineRate]:
    """Return what each machine measured, the newest first."""
    boots = dict.fromkeys(run["boot"] for run in reversed(raw["runs"]))
    return [LineRate(raw, boot) for boot in boots]
