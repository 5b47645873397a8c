"""Check everything: style, types, the spec's vectors, two readers' conformance, and the tests.

python3 scripts/test.py                  all of it
python3 scripts/test.py tests/thaw -x    pytest alone, with these arguments
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

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
STEPS: dict[str, list[str]] = {
    "crate format": ["cargo", "fmt", f"--manifest-path={CRATE}", "--check"],
    "crate lint": [
        *["cargo", "clippy", f"--manifest-path={CRATE}", "--locked", "--all-targets", "--quiet"],
        *["--", "--deny=warnings"],
    ],
    "crate tests": ["cargo", "test", f"--manifest-path={CRATE}", "--locked", "--quiet"],
    "kernels": ["python", "scripts/make_ptx.py", "--check"],
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
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
        return _run(["pytest", *sys.argv[1:]])
    for name, command in STEPS.items():
        _say(f"{name}: {' '.join(command)}")
        start_s = time.monotonic()
        status = _run(command)
        outcome = f"failed with status {status}" if status else "passed"
        _say(f"{name}: {outcome} in {time.monotonic() - start_s:.1f} s")
        if status:
            return 1
    return 0


def _inputs() -> list[Path]:
    backends = environment.ROOT / "backends"
    inputs = [environment.ROOT / "pyproject.toml", CRATE, *backends.glob("*/pyproject.toml")]
    inputs += [environment.ROOT / "thaw_vllm.py", *VLLM.glob("*.txt")]
    sources = (path for kind in ("rs", "py") for path in backends.rglob(f"*.{kind}"))
    return [*inputs, *(path for path in sources if "target" not in path.parts)]


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def _run(command: list[str]) -> int:
    return environment.run(command, cwd=environment.ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
