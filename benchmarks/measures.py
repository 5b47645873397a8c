"""The side of the line-rate benchmark that runs in a fresh process: it does a case, writes rows."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from cases import CHECKPOINT, Case, Settings, catalogue, folder_of
from gauges import Sampler, drop, resident_share, warm
from llama import allocate, make, problems, spoil, total_nbytes, write_checkpoint
from peers import PEERS, Job

if TYPE_CHECKING:
    import thaw

Tensors: TypeAlias = Mapping[str, torch.Tensor]

_COLD_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a case.

    Attributes:
        what: "first" in the process, "again", "into" tensors that are there, "pin", "peak".
        identical: whether every tensor was found bit-identical after every sample; None where
            no tensor was moved.
        ready_s: how long imports took before the clock started.
        plain_s: how long plain writes (or reads past the page cache) of as many bytes took between
            the samples, by way.
        memory: peaks beyond what was there and what was asked for, in bytes.
    """

    case: str
    what: str
    samples_s: tuple[float, ...]
    nbytes: int
    tensors: int
    identical: bool | None = None
    path_ran: str = ""
    chunks_checked: int | None = None
    ceiling: str | None = None
    ready_s: float = 0.0
    resident_share: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    note: str = ""
    plain_s: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """A case under way: its settings, where its rows go, and the clock."""

    def __init__(self, case: Case, settings: Settings, rows: Path) -> None:
        self.case, self.settings, self.device = case, settings, settings.where()
        self.path = settings.path(case.file, case.place)
        self.shapes = settings.shapes(case.file)
        self.again = settings.again if case.again is None else case.again
        self.ready_s, self._rows, self._problems = 0.0, rows, list[str]()

    def start(self, *modules: str) -> None:
        """Start the device, then import what the case needs."""
        if self.device.type == "cuda":
            torch.cuda.init()
            torch.zeros(1, device=self.device)
            torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        for module in modules:
            importlib.import_module(module)
        if "thaw" in modules:
            import thaw

            # Loads the plugins, which is what importing a peer does.
            thaw.backends()
        self.ready_s = time.perf_counter() - began

    def row(self, what: str, samples_s: list[float], **details: Any) -> Row:
        """Make a row of what has been timed and checked since the last one."""
        found, self._problems = self._problems, []
        for problem in found[:5]:
            print(problem, file=sys.stderr)
        nbytes, tensors = total_nbytes(self.shapes), len(self.shapes)
        made = Row(self.case.name, what, tuple(samples_s), nbytes, tensors, not found)
        return replace(made, ceiling=self.case.ceiling, ready_s=self.ready_s, **details)

    def emit(self, row: Row) -> None:
        with self._rows.open("a") as file:
            file.write(json.dumps({"row": asdict(row)}) + "\n")

    def emit_ceilings(self, ceilings: list[dict[str, Any]]) -> None:
        with self._rows.open("a") as file:
            file.write(json.dumps({"place": self.case.place, "ceilings": ceilings}) + "\n")

    def timed(self, action: Callable[[], Any]) -> tuple[Any, float]:
        """Run an action until the device is done."""
        self._synchronize()
        began = time.perf_counter()
        result = action()
        self._synchronize()
        return result, time.perf_counter() - began

    def check(self, found: Tensors) -> None:
        """Compare with what the seed gives."""
        self._problems += problems(found, self.shapes, self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ceilings(bench: Bench) -> None:
    from thaw.bench.ceilings import measure_ceilings

    folder = bench.path.parent
    # A disk takes long for what a few seconds tell as well.
    nbytes, repeat = (4 << 30, 3) if folder_of(bench.case.place) == "tmpfs" else (2 << 30, 2)
    nbytes = min(nbytes, total_nbytes(bench.shapes))
    found = measure_ceilings(folder, bench.device, nbytes=nbytes, repeat=repeat)
    bench.emit_ceilings([asdict(each) for each in found])


def freeze(bench: Bench) -> None:
    """Freeze to a new file each time; check the last one by restoring it."""
    bench.start("thaw")
    import thaw

    plain: dict[str, list[float]] = {}
    times, path_ran = _freeze_samples(bench, make(bench.shapes, bench.device), plain)
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    bench.check(thaw.restore(bench.path, device=bench.device, backend="auto"))
    row = bench.row("first", times[:1], path_ran=path_ran, plain_s=plain)
    bench.emit(row)
    if times[1:]:
        bench.emit(replace(row, what="again", samples_s=tuple(times[1:])))


def _freeze_samples(
    bench: Bench, tensors: Tensors, plain: dict[str, list[float]]
) -> tuple[list[float], str]:
    import thaw

    times, path_ran = [], ""
    for _ in range(1 + bench.again):
        bench.path.unlink(missing_ok=True)
        report, elapsed_s = bench.timed(
            lambda: thaw.freeze(tensors, bench.path, backend=bench.case.subject)
        )
        times.append(elapsed_s)
        path_ran = report.path_ran
        if bench.case.plain:
            from plain import write_plainly

            how = "buffered" if folder_of(bench.case.place) == "tmpfs" else "O_DIRECT"
            nbytes = total_nbytes(bench.shapes)
            write_plainly(bench.path.parent, bench.device, nbytes, how, plain)
    return times, path_ran


def restore(bench: Bench) -> None:
    """Restore from one of the places: the first time, again, and into tensors that are there."""
    bench.start("thaw")
    import thaw

    backend: Any = bench.case.subject
    with ExitStack() as stack:
        if bench.case.place == "pinned":
            pinned, elapsed_s = bench.timed(lambda: thaw.pin(bench.path, device=bench.device))
            stack.enter_context(pinned)
            bench.emit(replace(bench.row("pin", [elapsed_s]), identical=None, ceiling=None))
            move = pinned.restore
        elif bench.case.action == "undigested":
            snapshot = stack.enter_context(thaw.open(bench.path))
            none = (None,) * len(snapshot.sources)
            bare = replace(snapshot, digests=none)

            def move(**options: Any) -> thaw.Restored:
                return thaw.restore(bare, **options)

        else:

            def move(**options: Any) -> thaw.Restored:
                return thaw.restore(bench.path, **options)

        counts = {"first": 1, "again": bench.again}
        _samples(bench, lambda: move(device=bench.device, backend=backend), counts)
        into = allocate(bench.shapes, bench.device)
        _samples(bench, lambda: move(into=into, backend=backend), {"into": bench.again})


def _samples(bench: Bench, move: Callable[[], thaw.Restored], counts: Mapping[str, int]) -> None:
    """Restore so many times under each name, and make a row of each."""
    for what, count in counts.items():
        times, details, plain = [], {}, dict[str, list[float]]()
        for _ in range(count):
            details = _settle(bench)
            restored, elapsed_s = bench.timed(move)
            times.append(elapsed_s)
            details |= _ran(restored.report)
            bench.check(restored)
            spoil(restored)
            del restored
            if bench.case.plain:
                from plain import read_plainly

                read_plainly(bench.path, bench.device, total_nbytes(bench.shapes), plain)
        if times:
            bench.emit(bench.row(what, times, plain_s=plain, **details))


def _ran(report: thaw.RestoreReport) -> dict[str, Any]:
    return {"path_ran": report.path_ran, "chunks_checked": report.chunks_checked}


def _settle(bench: Bench) -> dict[str, Any]:
    """Bring the page cache into the state that the place names; say which share it holds."""
    if bench.case.place == "cold-disk":
        drop(bench.path)
    elif bench.case.place == "page-cache" and resident_share(bench.path) < 1:
        warm(bench.path)
    if folder_of(bench.case.place) == "tmpfs":
        return {}
    share = resident_share(bench.path)
    if bench.case.place == "cold-disk" and share > _COLD_SHARE:
        raise RuntimeError(f"{share:.1%} of the file stayed in the page cache")
    return {"resident_share": share}


def memory(bench: Bench) -> None:
    """Sample memory during the first restore of a process; its time does not count."""
    bench.start("thaw")
    import thaw

    _settle(bench)
    on_host = 0 if bench.device.type == "cuda" else total_nbytes(bench.shapes)
    on_device = total_nbytes(bench.shapes) - on_host
    with Sampler(bench.device) as sampler:
        restored, elapsed_s = bench.timed(
            lambda: thaw.restore(bench.path, device=bench.device, backend=bench.case.subject)
        )
    bench.check(restored)
    details = _ran(restored.report) | {"memory": sampler.extra(on_device, on_host)}
    bench.emit(replace(bench.row("peak", [elapsed_s], **details), ceiling=None))


def memory_freeze(bench: Bench) -> None:
    """Sample memory during a freeze; its time does not count."""
    bench.start("thaw")
    import thaw

    tensors = make(bench.shapes, bench.device)
    path = bench.path.with_name("sampled.thaw")
    with Sampler(bench.device) as sampler:
        report, elapsed_s = bench.timed(
            lambda: thaw.freeze(tensors, path, backend=bench.case.subject)
        )
    bench.check(thaw.restore(path, device=bench.device))
    path.unlink()
    details = {"path_ran": report.path_ran, "memory": sampler.extra(0, 0)}
    bench.emit(replace(bench.row("peak", [elapsed_s], **details), ceiling=None))


def peer(bench: Bench) -> None:
    """Load with a peer: the first time, and again."""
    bench.start()
    known = PEERS[bench.case.subject]
    setting = known.settings[bench.case.setting]
    began = time.perf_counter()
    load = setting.prepare(Job(bench.path, bench.device, bench.shapes))
    bench.ready_s = time.perf_counter() - began
    note = f"{known.version()}; {setting.note}" if setting.note else known.version()
    for what, count in (("first", 1), ("again", bench.again)):
        times = []
        for _ in range(count):
            loaded, elapsed_s = bench.timed(load)
            times.append(elapsed_s)
            bench.check(loaded)
            spoil(loaded)
            del loaded
        if times:
            bench.emit(bench.row(what, times, note=note))


def save(bench: Bench) -> None:
    """Save with a peer; what it wrote is checked when it is loaded."""
    bench.start()
    write, tensors = _saving(bench.case.subject), make(bench.shapes, bench.device)
    part = bench.path.with_name(f"part-{bench.path.name}")
    _, elapsed_s = bench.timed(lambda: write(tensors, part))
    nbytes, expected = part.stat().st_size, total_nbytes(bench.shapes)
    if nbytes < expected:
        raise RuntimeError(f"it saved {nbytes} bytes of {expected}")
    part.rename(bench.path)
    row = bench.row("first", [elapsed_s], note=PEERS[bench.case.subject].version())
    bench.emit(replace(row, identical=None))


def make_file(bench: Bench) -> None:
    """Make the file that a case reads, where no case has left it."""
    tensors = make(bench.shapes, bench.device)
    part = bench.path.with_name(f"part-{bench.path.name}")
    if bench.case.file == CHECKPOINT:
        write_checkpoint(tensors, part)
    elif bench.case.action == "peer":
        _saving(bench.case.subject)(tensors, part)
    else:
        import thaw

        thaw.freeze(tensors, part)
    part.rename(bench.path)


def _saving(subject: str) -> Callable[[Tensors, Path], None]:
    save = PEERS[subject].save
    if save is None:
        raise LookupError(f"{subject} does not save")
    return save


ACTIONS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "freeze": freeze,
    "freeze-many": freeze,
    "restore": restore,
    "checkpoint": restore,
    "many": restore,
    "undigested": restore,
    "memory": memory,
    "memory-checkpoint": memory,
    "memory-freeze": memory_freeze,
    "peer": peer,
    "save": save,
}


def run_child(name: str, rows: Path, settings: Settings, *, only_make: bool) -> None:
    """Do one case in this process."""
    case = catalogue(settings)[name]
    if settings.peers and case.subject in PEERS:
        sys.path.insert(0, str(Path(settings.peers, case.subject)))
    bench = Bench(case, settings, rows)
    (make_file if only_make else ACTIONS[case.action])(bench)
