"""The side of the line-rate benchmark that runs in a fresh process: it does a case, writes rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench_case import Bench
from cases import CHECKPOINT, Settings, catalogue
from llama import make, write_checkpoint
from measures_peers import peer, save, saving
from measures_thaw import ceilings, checkpoint, freeze, memory, memory_freeze, restore, unread
from peers import PEERS

ACTIONS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "freeze": freeze,
    "freeze-many": freeze,
    "restore": restore,
    "checkpoint": checkpoint,
    "many": restore,
    "unread": unread,
    "memory": memory,
    "memory-checkpoint": memory,
    "memory-freeze": memory_freeze,
    "peer": peer,
    "save": save,
}


def make_file(bench: Bench) -> None:
    """Make the file that a case reads, where no case has left it."""
    tensors = make(bench.shapes, bench.device)
    part = bench.path.with_name(f"part-{bench.path.name}")
    if bench.case.file == CHECKPOINT:
        write_checkpoint(tensors, part)
    elif bench.case.action == "peer":
        saving(bench.case.subject)(tensors, part)
    else:
        import thaw

        thaw.freeze(tensors, part)
    part.rename(bench.path)


def run_child(name: str, rows: Path, settings: Settings, *, only_make: bool) -> None:
    """Do one case in this process."""
    case = catalogue(settings)[name]
    if settings.peers and case.subject in PEERS:
        sys.path.insert(0, str(Path(settings.peers, case.subject)))
    bench = Bench(case, settings, rows)
    (make_file if only_make else ACTIONS[case.action])(bench)
