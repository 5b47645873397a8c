"""Measure engines with two ranks on two GPUs: what they decode, how fast they load, what fails.

python benchmarks/ranks.py make|decoding|together|faults|large --folder DIR --out FILE

Parts add to the JSON in FILE; `together` and `faults` use the snapshot that `decoding` leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import torch

from engine_models import ARCHITECTURES, EXPERTS, FULL, LARGE, save, save_full
from engine_runs import ENGINE as ONE_RANK
from engine_runs import thaw_from
from engines import Results
from rank_process import run_engine
from rank_transfers import Moves, together

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from compare_decoding import KINDS, Case, compare, outcome

Row: TypeAlias = dict[str, Any]
RANKS = 2
SECOND = "rank-00001-of-00002.thaw"
ENGINE: dict[str, Any] = ONE_RANK | {
    "tensor_parallel_size": RANKS,
    "gpu_memory_utilization": 0.3,
    "kv_cache_memory_bytes": 1 << 28,
}


def make(args: argparse.Namespace, _: Results) -> int:
    """Write the checkpoints of the other parts."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in args.models:
        folder = args.folder / name
        if name in (*FULL, *LARGE):
            save_full(name, folder, device)
        else:
            save(name, folder, device=device)
    return 0


def decoding(args: argparse.Namespace, results: Results) -> int:
    """Compare greedy decoding with the default loader's in fresh processes, models side by side."""

    def run(name: str) -> list[Row]:
        cases = [Case(name, str(args.folder / name), kind, ENGINE | args.engine) for kind in KINDS]
        folder = args.folder / f"{name} compared"
        folder.mkdir()
        return compare(cases, folder, limit_s=args.limit_s)

    with ThreadPoolExecutor(len(args.models)) as pool:
        found = [row for rows in pool.map(run, args.models) for row in rows]
    results.add("decoding", found)
    print(*map(outcome, found), sep="\n", flush=True)
    return 0 if all(row["passed"] for row in found) else 1


def transfers(args: argparse.Namespace, results: Results) -> int:
    """Restore both ranks at once, beside plain copies and reads that run at once too."""
    snapshot = _snapshot(args)
    disk = args.disk / "thaw-ranks.thaw" if args.disk else None
    try:
        if disk:
            shutil.copytree(snapshot, disk)
            os.sync()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows = together(
            Moves(str(snapshot), str(disk) if disk else None, device, RANKS, args.again)
        )
    finally:
        if disk:
            shutil.rmtree(disk, ignore_errors=True)
    results.add("together", rows)
    for row in rows:
        rates = " ".join(f"{rate:.1f}" for rate in row["together_gbps"])
        print(f"{row['way']}: {rates} GB/s {row['ranks'][0].get('route', '')}", flush=True)
    return 0 if all(rank.get("identical", True) for row in rows for rank in row["ranks"]) else 1


def faults(args: argparse.Namespace, results: Results) -> int:
    """Load and restore what is damaged or incomplete, and kill a rank; time what follows."""
    snapshot, engine = _snapshot(args), ENGINE | args.engine | _from(args.folder / args.models[0])
    damaged, parted = args.folder / "damaged.thaw", args.folder / "parted.thaw"
    for folder in (damaged, parted):
        folder.mkdir()
        for file in snapshot.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / SECOND).unlink()
    _flip(snapshot / SECOND, damaged / SECOND)
    dying = {"worker_extension_cls": "rank_extension.DyingRank"}
    cases = {
        "a flipped byte in rank 1's file": (engine | thaw_from(damaged), [], "fails its CRC32C"),
        "no file of rank 1": (engine | thaw_from(parted), [], "rank 1 has no file"),
        "rank 1 killed while it loads": (engine | thaw_from(snapshot) | dying, [], "rank 1 dies"),
        "a flipped byte, into a live engine": (
            engine | {"load_format": "dummy"},
            [["restore", str(damaged)]],
            "fails its CRC32C",
        ),
        "rank 1 killed, into a live engine": (
            engine | {"load_format": "dummy"} | dying,
            [["restore", str(snapshot)]],
            "rank 1 dies",
        ),
    }

    def run(item: tuple[str, tuple[dict[str, Any], list[list[str]], str]]) -> Row:
        name, (arguments, actions, sign) = item
        row = run_engine(args.folder, name, arguments, actions, sign=sign, limit_s=args.limit_s)
        return row | {"passed": bool(row["status"]) and row.get("sign_to_end_s", 1e9) <= 30}

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(run, cases.items()))
    results.add("faults", rows)
    for row in rows:
        print(json.dumps(row)[:600], flush=True)
    return 0 if all(row["passed"] for row in rows) else 1


def large(args: argparse.Namespace, results: Results) -> int:
    """Load a model that fills both devices, as vLLM does and from a snapshot, end to end."""
    model, snapshot = args.folder / args.models[0], args.folder / "large.thaw"
    engine = ENGINE | args.engine | _from(model)
    hot = [["restore", str(snapshot)]] * args.again
    frozen: list[list[str]] = [["drop_weights", str(model)], ["freeze", str(snapshot)]]
    runs: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
        "dummy": (engine | {"load_format": "dummy"}, []),
        "default": (engine, [["decode"], *frozen]),
        "thaw, first": (engine | thaw_from(snapshot), [["decode"], ["verify", str(snapshot)]]),
        "thaw, again": (
            engine | thaw_from(snapshot),
            [["decode"], *hot, ["pin", str(snapshot)], *hot, ["decode"]],
        ),
    }
    rows, expected = [], None
    for name, (arguments, actions) in runs.items():
        row = run_engine(args.folder, name, arguments, actions, limit_s=args.limit_s)
        decoded = [each for each in row["done"] if each["action"] == "decode"]
        for each in decoded:
            expected = expected or each["value"]
            each |= {"equal": each["value"] == expected, "value": None}
        rows.append(row | {"model": args.models[0]})
        results.add("large", [rows[-1]])
        print(json.dumps(row)[:1500], flush=True)
    return 1 if any(row["status"] for row in rows) else 0


def _snapshot(args: argparse.Namespace) -> Path:
    return Path(args.folder / f"{args.models[0]} compared" / "0.thaw")


def _from(model: Path) -> dict[str, Any]:
    return {"model": str(model)}


def _flip(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.seek(target.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


PARTS = {
    "make": make,
    "decoding": decoding,
    "together": transfers,
    "faults": faults,
    "large": large,
}
_MODELS = {"large": ["Llama-3-70B"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--models", nargs="*", help=f"of {', '.join(ARCHITECTURES)}, ...")
    parser.add_argument("--folder", type=Path, required=True, help="for models, snapshots and logs")
    parser.add_argument("--disk", type=Path, help="a folder on a disk, for the page cache")
    parser.add_argument("--again", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=5, help="faults to try side by side")
    parser.add_argument("--limit-s", type=float, default=400, help="of one process")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of LLM, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", help="what to say was measured, where git is not at hand")
    args = parser.parse_args()
    args.models = args.models or _MODELS.get(args.part, ["Llama-3.1-8B", EXPERTS])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.folder.mkdir(parents=True, exist_ok=True)
    return PARTS[args.part](args, Results(args.out, device, args.commit))


if __name__ == "__main__":
    sys.exit(main())
