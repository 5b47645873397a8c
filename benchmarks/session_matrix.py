"""Run the tests of sessions that CI has no time for, and write how each ended.

python benchmarks/session_matrix.py --out FILE [FILE_OF_TESTS ...]

They take the faults that sessions have to survive on vLLM's engines, and modes of these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch

from engines import Results
from results import Figure, Row, none_of

TESTS = Path(__file__).resolve().parents[1] / "tests" / "vllm"
FILES = (
    *("test_sessions", "test_sessions_served", "test_session_ranks"),
    *("test_more_sessions", "test_session_adapters", "test_session_models"),
)
PART = "faults"
_FAILED = frozenset({"failure", "error", "skipped"})


def rows_of(report: Path) -> list[Row]:
    """Read from a report of pytest's what became of each test."""
    return [
        {
            "part": PART,
            "case": f"{case.get('classname', '').split('.')[-1]}: {case.get('name')}",
            "passed": not any(child.tag in _FAILED for child in case),
        }
        for case in ElementTree.parse(report).getroot().iter("testcase")
    ]


def figures(rows: Sequence[Row]) -> list[Figure]:
    wrong = [row for row in rows if not row["passed"]]
    return [
        none_of("faults and modes of sessions that end otherwise than they should", rows, wrong)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", default=FILES, help="of tests, without .py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    # Results are added to what is there, which here is another run of the same tests.
    args.out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "matrix or not matrix"]
        command += [f"--junitxml={report}", *(str(TESTS / f"{name}.py") for name in args.files)]
        status = subprocess.run(command, cwd=TESTS.parents[1], check=False).returncode
        Results(args.out, torch.device("cpu"), None, figures).add_rows(rows_of(report))
    return status


if __name__ == "__main__":
    sys.exit(main())
