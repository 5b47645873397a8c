"""Run a benchmark of vLLM's engines on this machine's GPUs, with no network and nothing installed.

    python scripts/gpu/benchmark.py --bundle FILE --wheels DIR --output DIR PART [-- OPTIONS]

FILE is a tar archive of vLLM and what it needs, as they lie in a folder of installed packages; DIR
holds wheels of what else the machine lacks and of the native backend. PART is one of `engines.py`
(decoding, figures), of `ranks.py` (make, decode-ranks, together, faults, large), of `sessions.py`
(sessions, sessions-models), `modes`, or `before-after`, which needs no vLLM, and OPTIONS are its
own. All is unpacked into a folder that is removed at the end; results go to PART.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from place import ROOT, prepared, run_until

_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # Memory that is shared by multicast may not be had on a machine that is one of several.
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}
_IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
PARTS: Mapping[str, tuple[list[str], Mapping[str, str]]] = {
    "decoding": (["engines.py", "decoding"], {}),
    "figures": (["engines.py", "figures"], _IN_PROCESS),
    "modes": (["engine_modes.py"], _IN_PROCESS),
    "before-after": (["before_after.py"], {}),
    "beside": (["beside.py"], {}),
    "make": (["ranks.py", "make"], {}),
    "decode-ranks": (["ranks.py", "decoding"], {}),
    "together": (["ranks.py", "together"], {}),
    "faults": (["ranks.py", "faults"], {}),
    "large": (["ranks.py", "large"], {}),
    "sessions": (["sessions.py", "sessions"], {}),
    "sessions-models": (["sessions.py", "models"], {}),
}
"""Scripts in benchmarks/ with their first argument, and what their processes need besides."""


def main() -> int:
    options = parse()
    deadline = time.monotonic() + options.limit_s
    with prepared(options.output, options.wheels, options.bundle) as (place, machine):
        (script, *first), more = PARTS[options.part]
        command = [sys.executable, str(ROOT / "benchmarks" / script)]
        # Of `engines.py` the commit belongs before the command.
        where = ["--out", str(place.output / f"{options.part}.json")]
        commit = ["--commit", machine["commit"]]
        command += [*commit, *first, *where, *options.options]
        return run_until(command, place, deadline - time.monotonic(), {**_ENVIRONMENT, **more})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("options", nargs="*", help="of that part, after --")
    parser.add_argument("--bundle", type=Path, help="vLLM, where it is not installed")
    parser.add_argument(
        "--wheels", type=Path, help="holds wheels, and `commit` where git knows none"
    )
    parser.add_argument("--output", type=Path, default=Path("build", "gpu_engines"))
    parser.add_argument("--limit-s", type=float, default=540)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
