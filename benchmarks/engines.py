"""Measure vLLM with thaw, and compare what it decodes, architecture by architecture.

python benchmarks/engines.py decoding --folder DIR --out FILE
python benchmarks/engines.py figures [--shape NAME] [--tmpfs DIR] [--disk DIR] --out FILE

Both add to the JSON in FILE, and write it after each part, so that what ends early keeps its rows.
Without a GPU `decoding` compares more dtypes, and two ranks as well; results/engines_cpu.json is
from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from engine_cases import ENVIRONMENT, on_cpu, on_cuda, save_models
from engine_models import ARCHITECTURES, FULL, QUANTIZED, save, save_full
from engine_runs import ENGINE, Bench, Places, rounds
from engines_results import figures as figures_of
from gauges import describe_machine, warm
from results import Figure, Row, write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from compare_decoding import compare, outcome, versions

_PEERS = ("fastsafetensors", "instanttensor", "runai_streamer", "sharded_state")


_CASE = {"decoding": "name", "starts": "way", "modes": "mode", "together": "way"}
"""What names a row of a part, if not `name`."""


class Results:
    """A file of results that grows."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        commit: str | None,
        judge: Callable[[list[Row]], list[Figure]] = figures_of,
    ) -> None:
        self._judge = judge
        self._path = path
        self._rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
        self._machine = describe_machine(device, commit)

    def add(self, part: str, rows: list[dict[str, Any]]) -> None:
        made = [dict(row) for row in rows]
        key = _CASE.get(part, "name")
        self.add_rows([{"part": part, "case": row.pop(key)} | row for row in made])

    def add_rows(self, rows: list[Row]) -> None:
        """Add rows that say what they are of."""
        self._rows += rows
        found = self._judge(self._rows)
        write_results(self._path, self._machine, self._rows, found, versions=versions())


def decoding(args: argparse.Namespace, results: Results, device: torch.device) -> int:
    """Compare greedy decoding of small models with the default loader's, in fresh processes."""
    models = args.folder / "models"
    if device.type == "cuda":
        cases = on_cuda(models, args.engine, online=not args.no_online)
    else:
        cases = on_cpu(models, args.engine)
    wanted = args.models or (*ARCHITECTURES, *QUANTIZED)
    cases = [case for case in cases if Path(case.model).name in wanted]
    save_models(cases)

    def run(index: int) -> list[dict[str, Any]]:
        folder = args.folder / f"group-{index}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        environment, group = ENVIRONMENT[device.type], cases[index :: args.jobs]
        return compare(group, folder, limit_s=args.limit_s, environment=environment)

    with ThreadPoolExecutor(args.jobs) as pool:
        found = [each for group in pool.map(run, range(args.jobs)) for each in group]
    results.add("decoding", found)
    for each in found:
        print(outcome(each), flush=True)
    return 0 if all(each["passed"] for each in found) else 1


def figures(args: argparse.Namespace, results: Results, device: torch.device) -> int:
    """Measure starts, freezes and hot restores of models in use."""
    failed = 0
    for index, shape in enumerate(args.shape or FULL):
        folder = args.tmpfs / "thaw-engines"
        on_disk = args.disk / "thaw-engines.thaw" if args.disk and index == 0 else None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        places = Places(folder / "model", folder / "model.thaw", on_disk, folder / "sharded")
        bench = Bench(shape, places, ENGINE | args.engine, device)
        try:
            began = time.perf_counter()
            if shape in FULL:
                save_full(shape, places.model, device)
                torch.cuda.empty_cache()
            else:
                save(shape, places.model)
            print(f"{shape}: made in {time.perf_counter() - began:.1f} s", flush=True)
            _measure(bench, args.again)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if on_disk:
                on_disk.unlink(missing_ok=True)
            results.add("starts", bench.rows)
        for row in bench.rows:
            print(_line(row), flush=True)
            failed += "error" in row or row.get("equal") is False
    return 1 if failed else 0


def _measure(bench: Bench, again: int) -> None:
    """Warm up with dummy weights, then freeze what the default loader gives, then take turns."""
    places = bench.places
    bench.start("dummy", called="dummy, first of the process")
    _freeze(bench, again if places.on_disk else 1)
    ways = ["dummy", "default", "thaw/tmpfs"]
    if places.on_disk:
        shutil.copyfile(places.snapshot, places.on_disk)
        os.sync()
        warm(places.on_disk)
        ways += ["thaw/page-cache", *_PEERS]
    # Files that were just written load more slowly at first: notes.md says why.
    for way in [each for each in ways if each.startswith("thaw/")]:
        bench.start(way, called=f"{way}, just written")
    rounds(bench, ways, again)
    if places.on_disk:
        bench.start("thaw/tmpfs", called="thaw/tmpfs, memory sampled", memory=True)
    _restore_hot(bench, again)


def _freeze(bench: Bench, times: int) -> None:
    with bench.engine("default", called="default, first of the process") as llm:
        if llm is not None:
            bench.freeze(llm, times)
            if bench.places.on_disk:
                bench.save_sharded(llm)


def _restore_hot(bench: Bench, times: int) -> None:
    places = bench.places
    with bench.engine("thaw/tmpfs", called="thaw/tmpfs, before hot restores") as llm:
        if llm is None:
            return
        bench.hot(llm, "tmpfs", places.snapshot, times, pinned=False)
        if places.on_disk:
            bench.hot(llm, "page-cache", places.on_disk, times, pinned=False)
        bench.hot(llm, "pinned", places.snapshot, times + 2, pinned=True)


def _line(row: Mapping[str, Any]) -> str:
    said = {key: f"{value:.3f}" for key, value in row.items() if isinstance(value, float)}
    for key in ("samples_s", "moving_s"):
        if key in row:
            said[key] = " ".join(f"{value:.3f}" for value in row[key])
    for key in ("equal", "error", "differences", "plain_s", "sampled_extra", "torch_extra_nbytes"):
        if key in row:
            said[key] = str(row[key])
    return f"{row['shape']} {row['way']}: " + ", ".join(f"{k} {v}" for k, v in said.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", help="what to say was measured, where git is not at hand")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("decoding", help=decoding.__doc__)
    one.set_defaults(run=decoding)
    one.add_argument("--folder", type=Path, required=True, help="for models, snapshots and logs")
    one.add_argument("--models", nargs="*", choices=(*ARCHITECTURES, *QUANTIZED), metavar="NAME")
    one.add_argument("--no-online", action="store_true", help="leave out what is quantized late")
    one.add_argument("--jobs", type=int, default=1, help="groups of models to run side by side")
    one.add_argument("--limit-s", type=float, default=3600)
    two = commands.add_parser("figures", help=figures.__doc__)
    two.set_defaults(run=figures)
    two.add_argument("--shape", action="append", choices=(*FULL, *ARCHITECTURES), metavar="NAME")
    two.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"))
    two.add_argument("--disk", type=Path, help="a folder on a disk, for the page cache")
    two.add_argument("--again", type=int, default=3)
    for each in (one, two):
        each.add_argument("--engine", type=json.loads, default={}, help="arguments of LLM, as JSON")
        each.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    # So that a run that is stopped from outside keeps its rows.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return int(args.run(args, Results(args.out, device, args.commit), device))


if __name__ == "__main__":
    sys.exit(main())
