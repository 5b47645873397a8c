"""Check any reader of the `.thaw` format over the vectors (spec/thaw-1.0.md, section 13.1).

    python spec/conformance.py [--jobs N] [--timeout S] [--every N] [--vectors DIR] -- CMD...
    python spec/conformance.py --sessions [...] -- CMD...

CMD is run with the path of each vector as its last argument. All vectors prove a reader; every
N-th is for a quick look at one that is slow to start. Those that no archive can hold (pipes, links,
many ranks, large texts) are made in a folder that is removed at the end. With --sessions, CMD reads
sessions (spec/sessions-1.0.md, section 7.1) and is proved over theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COLUMNS = ("rank", "name", "dtype", "shape", "stride", "storage", "offset", "sha256")
VECTORS = Path(__file__).with_name("vectors")
SESSIONS = Path(__file__).with_name("sessions")
MAX_OPEN = 1024


def check(command: list[str], vector: Path, timeout_s: float) -> str | None:
    """Run the command on a vector; return what is wrong, or None."""
    try:
        expected = json.loads(vector.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"what is expected of it cannot be read: {error}"
    try:
        done = subprocess.run(
            [*command, str(vector)], capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:g} s"
    return judge(done, expected)


def judge(done: subprocess.CompletedProcess[bytes], expected: dict[str, Any]) -> str | None:
    """Compare what a command did with what is expected; where both are, it may do either."""
    if "error" in expected and (done.returncode or "tensors" not in expected):
        return check_rejection(done, expected["error"])
    if "sessions" in expected:
        return check_sessions(done, expected["sessions"])
    return check_table(done, expected["tensors"])


def check_rejection(
    done: subprocess.CompletedProcess[bytes], expected: dict[str, Any]
) -> str | None:
    if done.returncode == 0:
        return f"accepted; expected {expected['code']}"
    found = last_json(done.stderr)
    if found is None:
        return f"no JSON at the end of standard error; it ends with {done.stderr[-200:]!r}"
    for key in ("code", "rule"):
        if found.get(key) != expected[key]:
            return f"{key} is {found.get(key)}, expected {expected[key]}"
    return None


def last_json(text: bytes) -> dict[str, Any] | None:
    lines = text.decode(errors="replace").strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_table(
    done: subprocess.CompletedProcess[bytes], expected: list[dict[str, Any]]
) -> str | None:
    if done.returncode:
        return f"rejected, exit status {done.returncode}: {done.stderr[-300:]!r}"
    try:
        found = [{key: row[key] for key in COLUMNS} for row in json.loads(done.stdout)["tensors"]]
    except (ValueError, KeyError, TypeError) as error:
        return f"standard output is no tensor table: {error!r}"
    wanted = [{key: row[key] for key in COLUMNS} for row in expected]
    if len(found) != len(wanted):
        return f"{len(found)} tensors, expected {len(wanted)}"
    for one, two in zip(found, wanted, strict=True):
        if one != two:
            return f"found {json.dumps(one)[:300]}, expected {json.dumps(two)[:300]}"
    return None


def check_sessions(
    done: subprocess.CompletedProcess[bytes], expected: list[dict[str, Any]]
) -> str | None:
    if done.returncode:
        return f"rejected, exit status {done.returncode}: {done.stderr[-300:]!r}"
    try:
        found = json.loads(done.stdout)["sessions"]
    except (ValueError, KeyError, TypeError) as error:
        return f"standard output is no session table: {error!r}"
    return difference(found, expected, "sessions")


def difference(found: Any, expected: Any, where: str) -> str | None:
    """Say what differs first; found objects may have further members."""
    if type(found) is not type(expected):
        return f"{where}: found {json.dumps(found)[:300]}, expected {json.dumps(expected)[:300]}"
    if isinstance(expected, list):
        if len(found) != len(expected):
            return f"{where}: {len(found)} elements, expected {len(expected)}"
        pairs = {str(index): pair for index, pair in enumerate(zip(found, expected, strict=True))}
    elif isinstance(expected, dict):
        if missing := sorted(expected.keys() - found.keys()):
            return f"{where}: no {missing[0]}"
        pairs = {key: (found[key], each) for key, each in expected.items()}
    else:
        return None if found == expected else f"{where}: found {found}, expected {expected}"
    wrong = (difference(*pair, f"{where}.{key}") for key, pair in pairs.items())
    return next(filter(None, wrong), None)


def make_more(folder: Path) -> list[Path]:
    """Make the vectors that no archive can hold."""
    # The functions above are for others too, who load this file alone.
    from cases_made import make

    return make(folder)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each vector")
    parser.add_argument("--every", type=int, default=1, help="take every N-th vector alone")
    parser.add_argument("--vectors", type=Path, help="a folder of vectors in place of ours")
    parser.add_argument("--sessions", action="store_true", help="prove a reader of sessions")
    parser.add_argument("command", nargs="+", metavar="CMD")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if shutil.which(options.command[0]) is None:
        print(f"there is no command {options.command[0]!r}", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN, MAX_OPEN))
    with (
        TemporaryDirectory(prefix="thaw-vectors-") as made,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        folder = options.vectors or (SESSIONS if options.sessions else VECTORS)
        more = [] if options.sessions else make_more(Path(made))
        vectors = [*sorted(folder.glob("*valid/*.thaw")), *more]
        vectors = vectors[:: options.every]
        results = list(
            pool.map(lambda vector: check(options.command, vector, options.timeout), vectors)
        )
    for vector, wrong in zip(vectors, results, strict=True):
        if wrong:
            print(f"{vector.parent.name}/{vector.name}: {wrong}")
    failed = sum(wrong is not None for wrong in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
