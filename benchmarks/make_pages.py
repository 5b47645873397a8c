"""Make benchmarks/README.md from the raw results alone (`--check` compares instead)."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench_page import files as bench_files
from engines_page import files as engines_files
from headlines import headlines
from line_rate_page import RESULTS, headline
from line_rate_page import files as line_rate_files
from line_rate_results import LineRate
from ranks_page import files as ranks_files
from tables import described

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
FRONT = HERE.parent / "README.md"
BEGIN, END = "<!-- made by benchmarks/make_pages.py -->", "<!-- end -->"
MIB = 1 << 20
NOTE = """\
`load_file` maps the file: its tensors are the page cache itself, no memory is filled, nothing is
checked, and whoever writes to the file in place changes the loaded tensors. thaw copies the bytes
into memory of the process and checks them there. The rows with a clone and with a copy into
existing tensors do the same work with safetensors, without the checks."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The raw results of one run."""

    raw: dict[str, Any]

    def of(self, case: str, count: int, key: str) -> list[float]:
        return [each[key] for each in self.raw["samples"][f"{case}/{count}"]]

    def median(self, case: str, count: int, key: str = "elapsed_s") -> float:
        return median(self.of(case, count, key))

    def row(self, label: str, case: str, count: int, key: str = "elapsed_s") -> str:
        values = self.of(case, count, key)
        rate = self.raw["nbytes"] / median(values) / 1e9
        spread = f"{min(values):.2f} to {max(values):.2f}"
        return f"| {label} | {count:,} | {median(values):.2f} | {spread} | {rate:.2f} |"


def figures(samples: Samples) -> list[str]:
    """Say of each figure to reach what was found."""
    slow, fast = samples.median("restore_thaw", 20_000), samples.median("restore_thaw", 300)
    saving = samples.median("freeze_safetensors", 300)
    freezing = samples.median("freeze_thaw", 300)
    over = max(samples.of("restore_thaw", 300, "extra_rss")) - samples.median(
        "restore_thaw", 300, "payload"
    )
    found = [
        (
            "restore at least as fast as `load_file` and touching every byte",
            f"{samples.median('restore_safetensors', 300) / fast:.2f} times as fast",
            fast <= samples.median("restore_safetensors", 300),
        ),
        (
            "freeze (synced) at least as fast as `save_file` (not synced)",
            f"{saving / freezing:.2f} times as fast",
            freezing <= saving,
        ),
        (
            "peak memory of a restore at most the payload + 64 MiB",
            f"payload + {over / MIB:.1f} MiB",
            over <= 64 * MIB,
        ),
        (
            "peak memory of a freeze at most 64 MiB beyond the source",
            f"{max(samples.of('freeze_thaw', 300, 'extra_rss')) / MIB:.1f} MiB",
            max(samples.of("freeze_thaw", 300, "extra_rss")) <= 64 * MIB,
        ),
        (
            "20,000 tensors: `thaw.open` in less than 0.3 s",
            f"{samples.median('open_thaw', 20_000):.3f} s",
            samples.median("open_thaw", 20_000) < 0.3,
        ),
        (
            "20,000 tensors: restore within 1.5 times the time of 300",
            f"{slow / fast:.2f} times",
            slow <= 1.5 * fast,
        ),
        (
            "20,000 tensors: manifest of less than 5 MB",
            f"{samples.median('open_thaw', 20_000, 'manifest') / 1e6:.2f} MB",
            samples.median("open_thaw", 20_000, "manifest") < 5e6,
        ),
    ]
    return [f"| {what} | {value} | {'yes' if ok else '**no**'} |" for what, value, ok in found]


def page(raw: dict[str, Any]) -> str:
    samples, machine = Samples(raw), raw["machine"]
    rows = [
        row
        for count in (300, 20_000)
        for row in (
            samples.row("`thaw.restore`, digests checked", "restore_thaw", count),
            samples.row("safetensors `load_file` + touching", "restore_safetensors", count),
            samples.row("safetensors `load_file` + clone", "clone_safetensors", count),
            samples.row("`thaw.restore(into=)`, digests checked", "restore_into_thaw", count),
            samples.row(
                "safetensors `load_file` + copy into tensors", "restore_into_safetensors", count
            ),
            samples.row("`thaw.freeze`, synced", "freeze_thaw", count),
            samples.row("safetensors `save_file`", "freeze_safetensors", count),
            samples.row("safetensors `save_file` + fsync", "freeze_safetensors", count, "synced_s"),
        )
    ]
    conditions = (
        f"`python benchmarks/reference.py`: {raw['nbytes'] / 1e9:.0f} GB of bf16, page cache warm, "
        f"each case {raw['repeat']} times in a fresh process, interleaved; GB = 10^9 bytes."
    )
    facts = described(machine)
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Made by `benchmarks/make_pages.py` from the raw results in `results/`; do not edit.",
            "",
            "On an H100, beside other loaders: [line_rate.md](line_rate.md). The native backend on",
            "the CPU: [native_cpu.md](native_cpu.md). vLLM's engines: [engines.md](engines.md), on",
            "two GPUs: [two_gpus.md](two_gpus.md). What was tried: [notes.md](notes.md).",
            "",
            "## The reference backend on the CPU",
            "",
            conditions,
            f"Raw results: [results/reference.json](results/reference.json). Machine: {facts}.",
            "",
            "| case | tensors | median s | spread s | GB/s |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "| figure to reach | found | reached |",
            "|---|---|---|",
            *figures(samples),
            "",
            NOTE,
            "",
        ]
    )


def front(text: str, sentence: str) -> str:
    """Put a sentence between the marks of the project's README."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = textwrap.fill(sentence, 118)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def main() -> int:
    made = {PAGE: page(json.loads((HERE / "results" / "reference.json").read_text()))}
    made |= line_rate_files() | bench_files() | engines_files() | ranks_files()
    if RESULTS.exists():
        found = LineRate(json.loads(RESULTS.read_text()))
        made[FRONT] = front(FRONT.read_text(), " ".join([headline(found), *headlines()]))
    if "--check" in sys.argv[1:]:
        stale = [p.name for p, text in made.items() if not p.exists() or p.read_text() != text]
        if stale:
            print(f"not what make_pages.py makes: {', '.join(stale)}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in made.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
