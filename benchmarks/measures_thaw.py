"""What the line-rate benchmark does with thaw: freeze and restore, timed or with memory sampled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from bench_case import Bench, Tensors, Times
from cases import LLAMA, folder_of
from gauges import Sampler, drop, resident_share, warm
from llama import allocate, make, spoil, total_nbytes

if TYPE_CHECKING:
    from thaw_format import Snapshot

    import thaw

_COLD_SHARE = 0.01


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

    plain = Times()
    times, route = _freeze_samples(bench, make(bench.shapes, bench.device), plain)
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    bench.check(thaw.restore(bench.path, device=bench.device, backend="auto"))
    row = bench.row("first", times[:1], route=route, plain_s=plain)
    bench.emit(row)
    if times[1:]:
        bench.emit(replace(row, what="again", samples_s=tuple(times[1:])))


def _freeze_samples(bench: Bench, tensors: Tensors, plain: Times) -> tuple[list[float], str]:
    import thaw

    times, route = [], ""
    for _ in range(1 + bench.again):
        bench.path.unlink(missing_ok=True)
        # Before: memory that a file has just left is quicker to take than other memory, and so each
        # write comes right after a file as large was removed.
        if bench.case.plain:
            from plain import write_plainly

            how = "buffered" if folder_of(bench.case.place) == "tmpfs" else "O_DIRECT"
            nbytes = total_nbytes(bench.shapes)
            write_plainly(bench.path.parent, bench.device, nbytes, how, plain)
        report, elapsed_s = bench.timed(
            lambda: thaw.freeze(tensors, bench.path, backend=bench.case.subject)
        )
        times.append(elapsed_s)
        route = report.route
    return times, route


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

        else:

            def move(**options: Any) -> thaw.Restored:
                return thaw.restore(bench.path, **options)

        counts = {"first": 1, "again": bench.again}
        _samples(bench, lambda: move(device=bench.device, backend=backend), counts)
        into = allocate(bench.shapes, bench.device)
        _samples(bench, lambda: move(into=into, backend=backend), {"into": bench.again})


def undigested(snapshot: Snapshot) -> Snapshot:
    """Leave the digests out, so that nothing is checked."""
    return replace(snapshot, digests=(None,) * len(snapshot.sources))


def checkpoint(bench: Bench) -> None:
    """Restore a checkpoint; where that is asked for, a `.thaw` file without digests after it."""
    bench.start("thaw")
    import thaw

    backend: Any = bench.case.subject
    file = bench.settings.path(LLAMA, bench.case.place)
    if bench.case.plain and not file.exists():
        thaw.freeze(make(bench.shapes, bench.device), file)

    def bare(**options: Any) -> thaw.Restored:
        with thaw.open(file) as snapshot:
            return thaw.restore(undigested(snapshot), backend=backend, **options)

    def samples(counts: Mapping[str, int], **options: Any) -> None:
        def beside(plain: Times) -> None:
            restored, elapsed_s = bench.timed(lambda: bare(**options))
            plain.setdefault("undigested `.thaw`", []).append(elapsed_s)
            bench.check(restored)
            spoil(restored)

        def move() -> thaw.Restored:
            return thaw.restore(bench.path, backend=backend, **options)

        _samples(bench, move, counts, beside)

    samples({"first": 1, "again": bench.again}, device=bench.device)
    samples({"into": bench.again}, into=allocate(bench.shapes, bench.device))


def _samples(
    bench: Bench,
    move: Callable[[], thaw.Restored],
    counts: Mapping[str, int],
    beside: Callable[[Times], None] | None = None,
) -> None:
    """Restore so many times under each name, and make a row of each.

    Args:
        beside: what comes after each sample where the case asks for it; plain reads if not given.
    """
    for what, count in counts.items():
        times, details, plain = [], {}, Times()
        for _ in range(count):
            details = _settle(bench)
            restored, elapsed_s = bench.timed(move)
            times.append(elapsed_s)
            details |= _ran(restored.report)
            bench.check(restored)
            spoil(restored)
            del restored
            if bench.case.plain:
                (beside or _read_plainly(bench))(plain)
        if times:
            bench.emit(bench.row(what, times, plain_s=plain, **details))


def _read_plainly(bench: Bench) -> Callable[[Times], None]:
    from plain import read_plainly

    return partial(read_plainly, bench.path, bench.device, total_nbytes(bench.shapes))


def unread(bench: Bench) -> None:
    """Restore a file that nobody has read since it was written: the kernel has more to do then."""
    bench.start("thaw")
    import thaw

    original, backend = bench.path, bench.case.subject
    bench.path = original.with_name(f"unread-{original.name}")
    try:
        shutil.copyfile(original, bench.path)
        os.sync()
        _samples(
            bench,
            lambda: thaw.restore(bench.path, device=bench.device, backend=backend),
            {"first": 1},
        )
    finally:
        bench.path.unlink(missing_ok=True)


def _ran(report: thaw.RestoreReport) -> dict[str, Any]:
    return {"route": report.route, "chunks_checked": report.chunks_checked}


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
    details = {"route": report.route, "memory": sampler.extra(0, 0)}
    bench.emit(replace(bench.row("peak", [elapsed_s], **details), ceiling=None))
