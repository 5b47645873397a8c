"""Measure sessions of vLLM's engines: frozen in one process, restored in another.

python benchmarks/sessions.py sessions --out FILE [--lengths N ...] [--skip-decoding] [--disk DIR]
python benchmarks/sessions.py models --out FILE [--models NAME ...] [--tensor-parallel-size 2]

`sessions` times a shape in use; `models` compares what others decode, bit by bit. Both add to the
JSON in FILE, and write it after each process; what has no time left by --limit-s is left out.
In parts, that is with fewer --lengths at a time, --onto takes the results of the part before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from engines import Results
from gauges import warm
from pages import found_in_words
from rank_process import run_engine
from session_models import CASES, SHAPES, save
from session_rows import PAGE_CACHE, PINNED, TMPFS, rows_of, same_rows
from sessions_results import SHAPE, figures

LENGTHS = (256, 1040, 8000, 32_000, 100_000)
BESIDE = 32_000
"""The length that is frozen while others decode."""
_ROOM = 4096
"""How many tokens others that decode may have, and what is decoded behind the longest session."""
_COMPARED = 640
"""The length that is compared of models that are not timed: whole blocks of every size."""
_SAVING = Lock()
"""What transformers imports late can be asked for by one thread at a time."""
_ENGINE: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "dtype": "bfloat16",
    "enable_prefix_caching": True,
    "worker_extension_cls": "session_extension.Measured",
}
_SMALL: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": 1024,
    "gpu_memory_utilization": 0.3,
    "kv_cache_memory_bytes": 1 << 30,
}


@dataclass(frozen=True, slots=True)
class Folders:
    """Where everything of a model is.

    Attributes:
        sessions: in memory; the engines' folder of sessions.
        apart: a folder beside it, for sessions that serve nothing.
        disk: a folder for the page cache, or None.
    """

    logs: Path
    model: Path
    sessions: Path
    apart: Path
    disk: Path | None

    def file(self, tokens: int) -> str:
        return str(self.sessions / f"{tokens}.thaw")


@contextmanager
def _folders(args: argparse.Namespace) -> Iterator[Folders]:
    disk = None
    with tempfile.TemporaryDirectory(dir=args.tmpfs, prefix="thaw-sessions-") as name:
        if args.disk:
            disk = Path(tempfile.mkdtemp(dir=args.disk, prefix="thaw-sessions-"))
        try:
            logs = args.logs or Path(name, "logs")
            model, sessions, apart = (Path(name, each) for each in ("model", "sessions", "apart"))
            for each in (logs, model, sessions, apart):
                each.mkdir(parents=True, exist_ok=True)
            yield Folders(logs, model, sessions, apart, disk)
        finally:
            if disk:
                shutil.rmtree(disk)


def sessions(args: argparse.Namespace, results: Results) -> int:
    """Time one shape: a process computes and freezes, others restore."""
    lengths = sorted(args.lengths)
    with _folders(args) as folders:
        engine = _engine(args, folders, save(args.shape, folders.model))
        room = {"max_model_len": lengths[-1] + _ROOM}
        room |= {"gpu_memory_utilization": args.gpu_memory_utilization}
        engine = room | engine | args.engine
        ranks = args.tensor_parallel_size
        shape = args.shape if ranks == 1 else f"{args.shape}, TP={ranks}"
        froze = _run(args, folders, "froze", engine, _freezing(args, folders, lengths))
        results.add_rows(rows_of(shape, froze))
        if froze["status"]:
            return 1
        if folders.disk:
            _copy_to(folders.disk, folders.sessions)
        good = True
        for number in range(args.processes):
            name = f"restored {number + 1}"
            found = _run(args, folders, name, engine, _restoring(args, folders, lengths))
            same = same_rows(shape, engine, froze, found)
            results.add_rows([*rows_of(shape, found), *same])
            good = good and not found["status"] and all(row["passed"] for row in same)
    return 0 if good else 1


def _freezing(args: argparse.Namespace, folders: Folders, lengths: list[int]) -> list[Any]:
    actions: list[Any] = [*_begin(args.shape), ["warm", [_first(args, lengths)]]]
    for tokens in lengths:
        actions.append(["compute", tokens, args.repeats, args.prefills])
        actions.append(["freeze", tokens, folders.file(tokens), args.repeats])
        actions += [["from_cache", tokens], ["from_prefill", tokens]]
    actions.append(["behind_other", lengths[0]])
    if not args.skip_decoding:
        beside = BESIDE if BESIDE in lengths else lengths[-1]
        actions.append(["beside", beside, str(folders.apart), args.repeats, args.freezes])
    return actions


def _restoring(args: argparse.Namespace, folders: Folders, lengths: list[int]) -> list[Any]:
    ranks = args.tensor_parallel_size
    first = _first(args, lengths)
    actions = [*_begin(args.shape), ["warm", [first]], ["first", first, args.repeats]]
    for tokens in lengths:
        path = folders.file(tokens)
        actions.append(["serve", tokens, path, TMPFS, args.repeats])
        if folders.disk:
            cached = str(folders.disk / Path(path).name)
            actions.append(["serve", tokens, cached, PAGE_CACHE, args.repeats])
        if not args.skip_pinned:
            actions.append(["serve", tokens, path, PINNED, args.repeats])
        actions.append(["from_session", tokens])
    actions.append(["bus", args.repeats])
    # Last, since what compares takes longest.
    again = str(folders.apart / "again.thaw")
    for tokens in lengths:
        actions.append(["from_session", tokens])
        actions.append(["freeze_again", tokens, folders.file(tokens), again, ranks])
        actions.append(["from_prefill", tokens])
    return actions


def _first(args: argparse.Namespace, lengths: list[int]) -> int:
    return next((each for each in lengths if each >= args.first), lengths[-1])


def models(args: argparse.Namespace, results: Results) -> int:
    """Compare what models decode behind a session with what was decoded where it was frozen."""
    chosen = args.models or tuple(CASES)

    def compared(name: str) -> dict[str, Any]:
        with _folders(args) as folders:
            return _compare(args, folders, name)

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = []
        for ended in as_completed([pool.submit(compared, name) for name in chosen]):
            rows.append(ended.result())
            results.add_rows(rows[-1:])
    return 0 if all(row["passed"] for row in rows) else 1


def _compare(args: argparse.Namespace, folders: Folders, name: str) -> dict[str, Any]:
    model, more = CASES.get(name, (name, {}))
    tokens, path = _COMPARED, folders.file(_COMPARED)
    again = str(folders.apart / "again.thaw")
    with _SAVING:
        saved = save(model, folders.model)
    engine = _engine(args, folders, _SMALL | saved | more) | args.engine
    freezing = [["compute", tokens, 1, 1], ["freeze", tokens, path, 1], ["from_cache", tokens]]
    freezing += [["from_prefill", tokens], ["behind_other", tokens]]
    froze = _run(args, folders, f"{name}, froze", engine, [*_begin(model), *freezing])
    if froze["status"]:
        return same_rows(name, engine, froze, froze)[0]
    restoring = [["from_session", tokens], ["freeze_again", tokens, path, again]]
    restoring[-1].append(args.tensor_parallel_size)
    restoring.append(["from_prefill", tokens])
    found = _run(args, folders, f"{name}, restored", engine, [*_begin(model), *restoring])
    return same_rows(name, engine, froze, found)[0]


def _begin(model: str) -> list[Any]:
    return [["refill"]] if model in SHAPES else []


def _engine(args: argparse.Namespace, folders: Folders, model: dict[str, Any]) -> dict[str, Any]:
    from thaw.vllm.offline import connector_to

    ranks = {"tensor_parallel_size": args.tensor_parallel_size}
    return _ENGINE | model | ranks | {"kv_transfer_config": connector_to(folders.sessions)}


def _run(
    args: argparse.Namespace,
    folders: Folders,
    name: str,
    engine: dict[str, Any],
    actions: list[Any],
) -> dict[str, Any]:
    """Run a fresh process, and say what it took."""
    limit_s = max(1.0, args.deadline - time.monotonic())
    row = run_engine(
        folders.logs, name, engine, actions, limit_s=limit_s, script="session_engine.py"
    )
    done = [(each["action"], round(each["elapsed_s"], 1)) for each in row["done"]]
    print(f"{name}: status {row['status']}, {row['wall_s']:.1f} s, {done}", flush=True)
    if row["status"]:
        print(*row["errors"], row["log"], sep="\n", flush=True)
    return row


def _copy_to(disk: Path, folder: Path) -> None:
    for each in folder.iterdir():
        shutil.copy(each, disk)
    warm(disk)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", help="what to say was measured, where git is not at hand")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("sessions", help=sessions.__doc__)
    one.set_defaults(run=sessions)
    one.add_argument("--shape", default=SHAPE, choices=(*SHAPES, "llama"), metavar="NAME")
    one.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="in tokens")
    one.add_argument("--first", type=int, default=1040, help="the length of the first request")
    one.add_argument("--repeats", type=int, default=5)
    one.add_argument("--prefills", type=int, default=3, help="how often each length is computed")
    one.add_argument("--freezes", type=int, default=4, help="of each round beside others")
    one.add_argument("--skip-decoding", action="store_true", help="freeze beside no others")
    one.add_argument("--skip-pinned", action="store_true", help="load from no pinned pages")
    one.add_argument("--processes", type=int, default=1, help="that restore")
    one.add_argument("--disk", type=Path, help="a folder on a disk, for the page cache")
    one.add_argument("--gpu-memory-utilization", type=float, default=0.85)
    two = commands.add_parser("models", help=models.__doc__)
    two.set_defaults(run=models, disk=None)
    two.add_argument("--models", nargs="*", choices=(*CASES, *SHAPES), metavar="NAME")
    two.add_argument("--jobs", type=int, default=1, help="models to run side by side")
    for each in (one, two):
        each.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
        each.add_argument("--logs", type=Path, help="a folder where what processes say stays")
        each.add_argument("--tensor-parallel-size", type=int, default=1)
        each.add_argument("--engine", type=json.loads, default={}, help="arguments of LLM, as JSON")
        each.add_argument("--limit-s", type=float, default=440, help="of all processes together")
        each.add_argument("--onto", type=Path, help="results of before, to add these to")
        each.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.deadline = time.monotonic() + args.limit_s
    # Kernels that are chosen by timing them are not the same ones in every process.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    # So that a run that is stopped from outside leaves no files in memory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.onto:
        shutil.copyfile(args.onto, args.out)
    status = int(args.run(args, Results(args.out, device, args.commit, figures)))
    for figure in json.loads(args.out.read_text())["figures"]:
        print(f"{figure['name']}: {found_in_words(figure)}, reached: {figure['reached']}")
    return status


if __name__ == "__main__":
    sys.exit(main())
