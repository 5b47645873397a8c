"""Check everything: style, types, the spec's vectors, two readers' conformance, and the tests.

python3 scripts/test.py                  all of it
python3 scripts/test.py tests/thaw -x    pytest alone, with these arguments
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import environment

CRATE = environment.ROOT / "backends" / "native" / "Cargo.toml"
BACKENDS = ["./backends/native", "-e", "./backends/cupy", "-e", "./backends/gds"]
VLLM = environment.ROOT / "tests" / "vllm"
VERSIONS = ["-c", "tests/vllm/constraints.txt"]
REQUIREMENTS = [
    [*VERSIONS, "-e", ".[dev]"],
    [*VERSIONS, *BACKENDS],
    [*VERSIONS, "-r", "tests/vllm/requirements.txt"],
    [*VERSIONS, "--no-deps", "-r", "tests/vllm/engine.txt"],
]
# The longest first, and the two that build the crate apart, since one waits for the other.
CHECKS: dict[str, list[str]] = {
    "types": ["mypy"],
    "crate lint": [
        *["cargo", "clippy", f"--manifest-path={CRATE}", "--locked", "--all-targets", "--quiet"],
        *["--", "--deny=warnings"],
    ],
    "crate format": ["cargo", "fmt", f"--manifest-path={CRATE}", "--check"],
    "kernels": ["python", "scripts/make_ptx.py", "--check"],
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "vectors": ["python", "spec/make_vectors.py", "--check"],
    "conformance of thaw": [
        # Each start imports torch; tests/spec/test_conformance.py runs all of them in one process.
        *["python", "spec/conformance.py", "--every", "20", "--"],
        *["thaw", "inspect", "--json", "--sha256"],
    ],
    "conformance of spec/reader.py": [
        *["python", "spec/conformance.py", "--"],
        *["python", "spec/reader.py"],
    ],
    "conformance of spec/session_reader.py": [
        *["python", "spec/conformance.py", "--sessions", "--"],
        *["python", "spec/session_reader.py"],
    ],
    "crate tests": ["cargo", "test", f"--manifest-path={CRATE}", "--locked", "--quiet"],
}
TESTS: dict[str, list[str]] = {
    "tests": ["pytest", "-n", "2", "-m", "not vllm"],
    # A file at a time: its tests share what one process with engines has answered.
    "engines": [
        *["pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"],
        *["-m", "vllm and not matrix"],
    ],
}


def main() -> int:
    environment.enter("test", REQUIREMENTS, _inputs())
    if sys.argv[1:]:
        command = ["pytest", *sys.argv[1:]]
        return environment.run(command, cwd=environment.ROOT).returncode
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(_check, CHECKS))
    return 0 if all(passed) and all(map(_test, TESTS)) else 1


def _check(name: str) -> bool:
    """Take a step beside others; what it printed comes when it has ended."""
    return _step(name, CHECKS[name], stdout=PIPE, stderr=STDOUT)


def _test(name: str) -> bool:
    print(f"== {name}: {shlex.join(TESTS[name])}", flush=True)
    return _step(name, TESTS[name])


def _step(name: str, command: list[str], **options: Any) -> bool:
    start_s = time.monotonic()
    done = environment.run(command, cwd=environment.ROOT, **options)
    outcome = f"failed with status {done.returncode}" if done.returncode else "passed"
    elapsed_s = time.monotonic() - start_s
    print(f"{done.stdout or ''}== {name}: {outcome} in {elapsed_s:.1f} s", flush=True)
    return not done.returncode


def _inputs() -> list[Path]:
    backends = environment.ROOT / "backends"
    inputs = [environment.ROOT / "pyproject.toml", CRATE, *backends.glob("*/pyproject.toml")]
    inputs += [
        environment.ROOT / "thaw_vllm.py",
        environment.ROOT / "thaw_command.py",
        *VLLM.glob("*.txt"),
    ]
    sources = (path for kind in ("rs", "py") for path in backends.rglob(f"*.{kind}"))
    return [*inputs, *(path for path in sources if "target" not in path.parts)]


if __name__ == "__main__":
    sys.exit(main())
