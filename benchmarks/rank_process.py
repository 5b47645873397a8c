"""Runs engines in fresh processes, and reads from their logs what happened when."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
HERE = Path(__file__).resolve().parent
_ERRORS = 5
_TIMES = re.compile(
    r"restored \d+ tensors, [\d.]+ GB, in (?P<thaw>[\d.]+) s"
    r"|Loading weights took (?P<default>[\d.]+) seconds"
)


def run_engine(
    folder: Path,
    name: str,
    engine: Mapping[str, Any],
    actions: Sequence[Sequence[str]],
    *,
    limit_s: float,
    sign: str = "",
    script: str = "rank_engine.py",
) -> Row:
    """Start an engine in a fresh process; return what it answered, and what its log tells.

    Args:
        sign: what the log says when it happens; the time from there to the end is measured.
        script: what starts the engine and takes the actions.
    """
    stem = re.sub(r"\W+", "-", name)
    log, answer = folder / f"{stem}.log", folder / f"{stem}.json"
    task = json.dumps({"engine": engine, "actions": actions})
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), task, str(answer)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )
    try:
        seen_s = _follow(process, log, sign, began + limit_s)
        ended = time.perf_counter()
        hung = process.poll() is None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    row: Row = {"name": name, "status": process.wait(), "hung": hung, "wall_s": ended - began}
    row |= json.loads(answer.read_text()) if answer.exists() else {"done": []}
    said = log.read_text(errors="replace")
    row["weights_s"] = [float(found["thaw"] or found["default"]) for found in _TIMES.finditer(said)]
    if sign:
        row["sign"] = _lines(said, sign)[:2]
        row |= {"sign_to_end_s": ended - seen_s} if seen_s else {}
    elif row["status"]:
        row |= {"log": said[-1500:], "errors": errors_in(said)}
    return row


def errors_in(log: str) -> list[str]:
    """Return the errors that a log names, the first of all first, each once."""
    lines = "\n".join(line for line in log.splitlines() if " WARNING " not in line)
    found = re.findall(r"\b(?:\w+\.)*\w*(?:Error|Exception)\b: .+", lines)
    return list(dict.fromkeys(each.strip()[:300] for each in found))[:_ERRORS]


def _follow(
    process: subprocess.Popen[bytes], log: Path, sign: str, deadline: float
) -> float | None:
    """Wait for the end; return when the sign was first seen in the log."""
    seen_s = None
    while process.poll() is None and time.perf_counter() < deadline:
        if sign and seen_s is None and sign in log.read_text(errors="replace"):
            seen_s = time.perf_counter()
        time.sleep(0.05)
    return seen_s


def _lines(log: str, sign: str) -> list[str]:
    return [line.strip()[-300:] for line in log.splitlines() if sign in line]
