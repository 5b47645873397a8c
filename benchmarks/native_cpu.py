"""Measure the native backend on the CPU beside the reference, by `thaw bench`.

    python benchmarks/native_cpu.py SNAPSHOT [--repeat N]     measures; writes JSON
    python benchmarks/make_pages.py                           makes the page from it

No figures are to be reached: ceilings and the reference stand beside each row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from results import FOLDER, Row, write_results

_FACTS = ("schema", "schema_version", "thaw", "snapshot", "device", "folder_filesystem", "repeat")


def save(found: Row, path: Path) -> None:
    """Write what `thaw bench` found in the shape that all results have."""
    rows = [{"case": f"{row['operation']}/{row['backend']}"} | row for row in found["rows"]]
    ceilings = [{"part": "ceiling", "case": each["name"]} | each for each in found["ceilings"]]
    machine = found["machine"] | {key: found[key] for key in ("commit", "date")}
    settings = {key: found[key] for key in _FACTS}
    write_results(path, machine, [*ceilings, *rows], [], settings=settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER / "native_cpu.json")
    options = parser.parse_args()
    command = [sys.executable, "-m", "thaw", "bench", str(options.snapshot), "--device", "cpu"]
    command += ["--backend", "reference", "--backend", "native", "--repeat", str(options.repeat)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        done = subprocess.run([*command, "--output", str(out)], check=False)
        if out.exists():
            save(json.loads(out.read_text()), options.out)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
