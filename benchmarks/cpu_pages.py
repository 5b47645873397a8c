"""The pages about CPUs: what their sections say."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from pages import Section, figures, median_s, number, origin, page, render
from results import Row, part_of

REFERENCE, NATIVE = "reference.json", "native_cpu.json"
_INDEX = """\
On an H100, beside other loaders: [line_rate.md](line_rate.md). The native backend on
the CPU: [native_cpu.md](native_cpu.md). vLLM's engines: [engines.md](engines.md), on
two GPUs: [two_gpus.md](two_gpus.md), their KV sessions: [sessions.md](sessions.md). This tree
beside one before: [before_after.md](before_after.md). Transfers beside kernels:
[beside.md](beside.md). What was tried: [notes.md](notes.md).

## The reference backend on the CPU

`python benchmarks/reference.py`: bf16, page cache warm, each case in fresh processes, in turn."""
_MAPS = """\
`load_file` maps the file: its tensors are the page cache itself, no memory is filled, nothing is
checked, and whoever writes to the file in place changes the loaded tensors. thaw copies the bytes
into memory of the process and checks them there. The rows with a clone and with a copy into
existing tensors do the same work with safetensors, without the checks."""
_RESTORES = """\
*restore first* is that of a fresh process; *again* takes new memory each time, whose first touch
costs more than the copy; *into* fills tensors that are there. A restore does what a memcpy does,
and checks every chunk on the way."""
_CASES = {
    "`thaw.restore`, digests checked": ("restore_thaw", "samples_s"),
    "safetensors `load_file` + touching": ("restore_safetensors", "samples_s"),
    "safetensors `load_file` + clone": ("clone_safetensors", "samples_s"),
    "`thaw.restore(into=)`, digests checked": ("restore_into_thaw", "samples_s"),
    "safetensors `load_file` + copy into tensors": ("restore_into_safetensors", "samples_s"),
    "`thaw.freeze`, synced": ("freeze_thaw", "samples_s"),
    "safetensors `save_file`": ("freeze_safetensors", "samples_s"),
    "safetensors `save_file` + fsync": ("freeze_safetensors", "synced_s"),
}


def index(found: Row) -> str:
    """Return the first page, which is of the reference backend too."""
    lines = [*render([_ROWS], found), *figures({REFERENCE: found}, 3), _MAPS]
    return page("Benchmarks", ["", _INDEX, "", origin(REFERENCE, found)], lines)


def native(found: Row) -> str:
    """Return the page of the native backend."""
    lines = [*render(_SECTIONS, found["rows"]), _RESTORES]
    title = "The native backend on the CPU, beside the reference"
    return page(title, ["", f"Page cache warm, digests on. {origin(NATIVE, found)}"], lines)


def _cases(found: Row) -> Iterator[Row]:
    for count in sorted({row["tensors"] for row in found["rows"]}):
        for said, (case, key) in _CASES.items():
            rows = (
                each for each in found["rows"] if (each["case"], each["tensors"]) == (case, count)
            )
            for samples in (row[key] for row in rows):
                yield {
                    "case": said,
                    "tensors": count,
                    "median s": number(median(samples), 2),
                    "spread s": f"{min(samples):.2f} to {max(samples):.2f}",
                    "GB/s": number(found["settings"]["nbytes"] / median(samples) / 1e9, 2),
                }


def _operations(rows: list[Row]) -> Iterator[Row]:
    measured = [row for row in rows if "operation" in row]
    base = {r["operation"]: r["elapsed_s"] for r in measured if r["backend"] == "reference"}
    for row in sorted(measured, key=lambda row: str(row["operation"])):
        times = row["elapsed_s"]
        yield {
            "operation": row["operation"],
            "backend": row["backend"] + ("" if row["identical"] else " **bytes differ**"),
            "median s": median_s(times),
            "spread s": f"{min(times):.3f} to {max(times):.3f}",
            "GB/s": number(row["gbps"], 2),
            "share": number(row["share"], 2),
            "of": row["ceiling"],
            "beside the reference": f"{median(base[row['operation']]) / median(times):.2f} times",
        }


_ROWS = Section("", _cases)
_SECTIONS = (
    Section(
        "",
        lambda rows: [row for row in part_of(rows, "ceiling") if row["gbps"]],
        {"ceiling": "case", "GB/s": lambda row: number(row["gbps"], 2)},
    ),
    Section("", _operations),
)
