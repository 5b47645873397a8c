"""Make the test vectors of the `.thaw` format, or check that the committed ones are those."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cases_agreement
import cases_hashes
import cases_json
import cases_members
import cases_order
import cases_payload
import cases_sections
import cases_session
import cases_session_members
import cases_session_tensors
import cases_session_valid
import cases_set_order
import cases_sets
import cases_superblock
import cases_tensors
import cases_use
import cases_valid
import cases_weights
from vector_builder import Object
from vector_case import Case

SPEC = Path(__file__).resolve().parent
KINDS = ("valid", "invalid", "weights", "use")
MAX_NBYTES = 65535
CASES: list[Case] = [
    each
    for module in (
        cases_valid,
        cases_tensors,
        cases_superblock,
        cases_sections,
        cases_json,
        cases_members,
        cases_payload,
        cases_hashes,
        cases_order,
        cases_sets,
        cases_agreement,
        cases_set_order,
    )
    for each in module.CASES
]
SESSION_CASES: list[Case] = [
    each
    for module in (
        cases_session_valid,
        cases_session_members,
        cases_session,
        cases_session_tensors,
        cases_weights,
        cases_use,
    )
    for each in module.CASES
]
FOLDERS = {"vectors": CASES, "sessions": SESSION_CASES}


def main() -> int:
    """Write the vectors, or with --check compare them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    check, status = parser.parse_args().check, 0
    for name, cases in FOLDERS.items():
        made = make(cases)
        if check:
            found = differences(made, SPEC / name)
            print("\n".join(found) or f"{len(cases)} {name} are as made")
            status |= bool(found)
        else:
            write(made, SPEC / name)
            print(f"{len(cases)} {name}, {sum(map(len, made.values()))} bytes")
    return status


def make(cases: Iterable[Case]) -> dict[str, bytes]:
    """Return the bytes of every file, by path below the folder of its vectors."""
    made: dict[str, bytes] = {}
    for path, data in (each for case in cases for each in _files(case)):
        if path in made:
            raise ValueError(f"two vectors are called {path}")
        if len(data) > MAX_NBYTES:
            raise ValueError(f"{path} has {len(data)} bytes, at most {MAX_NBYTES} are allowed")
        made[path] = data
    return made


def _files(case: Case) -> Iterator[tuple[str, bytes]]:
    yield from case.files().items()
    yield f"{case.place}.json", serialize(case.expected()).encode()


def serialize(expected: Object) -> str:
    """Write what is expected as JSON with one member, and one tensor, a line."""
    lines = [f'  "{key}": {_value(expected[key])}' for key in sorted(expected)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = ",\n".join(f"    {json.dumps(row, sort_keys=True)}" for row in value)
        return f"[\n{rows}\n  ]"
    return json.dumps(value, sort_keys=True)


def write(made: dict[str, bytes], folder: Path) -> None:
    """Replace the vectors of a folder."""
    for kind in KINDS:
        shutil.rmtree(folder / kind, ignore_errors=True)
    for path, data in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def differences(made: dict[str, bytes], folder: Path) -> list[str]:
    """List what is missing, what is too many and what has other bytes."""
    found = {
        path.relative_to(folder).as_posix(): path
        for kind in KINDS
        for path in (folder / kind).rglob("*")
        if path.is_file()
    }
    missing = [f"missing: {path}" for path in sorted(made.keys() - found.keys())]
    extra = [f"extra: {path}" for path in sorted(found.keys() - made.keys())]
    both = sorted(made.keys() & found.keys())
    changed = [f"changed: {path}" for path in both if found[path].read_bytes() != made[path]]
    return missing + extra + changed


if __name__ == "__main__":
    sys.exit(main())
