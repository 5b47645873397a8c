"""Compare this tree with one of before, in turn, on one machine.

    git worktree add ../before COMMIT
    pip install --no-deps --target BEFORE ../before ../before/backends/{cupy,gds,native}
    python benchmarks/before_after.py BEFORE --tmpfs DIR --disk DIR --out FILE

A process of each tree stays up; they do the same thing one after the other, first the one and then
the other. The first time is not counted: memory is sampled then, and what was moved is compared
with what the seed gives. Ratios are seconds before by seconds after, so that more is better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from results import Figure

Row: TypeAlias = dict[str, Any]
AIM = 0.98
BACKENDS = ("native", "cupy", "gds-compat")
_SIDES = ("before", "after")
_MEMORY = ("torch_nbytes", "anonymous_nbytes")
"""What of the sampled memory is this process's own."""


def names() -> list[str]:
    """Return every case, as ACTION/PLACE/BACKEND."""
    actions = ("restore", "into", "many", "many-into", "freeze")
    found = [f"{action}/tmpfs/{backend}" for backend in BACKENDS for action in actions]
    return found + [f"freeze/disk/{backend}" for backend in BACKENDS]


def compare(args: argparse.Namespace) -> int:
    """Do every case by both trees and write what was found."""
    import torch

    from gauges import describe_machine
    from results import write_results

    rows: list[Row] = []
    machine = describe_machine(torch.device(args.device), args.commit)
    with ExitStack() as stack:
        sides = {
            "before": stack.enter_context(_process(args, args.before)),
            "after": stack.enter_context(_process(args, None)),
        }
        for name in names():
            if not any(fnmatchcase(name, pattern) for pattern in args.only):
                continue
            rows.append(_compare(name, sides, args.pairs))
            print(_line(rows[-1]), flush=True)
            found = [figure for row in rows for figure in figures(row)]
            settings = {"before": args.before_commit} | _sizes(args)
            write_results(args.out, machine, rows, found, settings=settings)
    return 0 if all(row["identical"] for row in rows if "reason" not in row) else 1


def _compare(name: str, sides: dict[str, _Side], pairs: int) -> Row:
    found: dict[str, list[float]] = {side: [] for side in sides}
    first = {side: process.ask(name) for side, process in sides.items()}
    row: Row = {"case": name, "identical": all(each.get("identical") for each in first.values())}
    if reason := next((each["reason"] for each in first.values() if "reason" in each), None):
        return row | {"reason": reason}
    for number in range(pairs):
        for side in sorted(sides, reverse=bool(number % 2)):
            found[side].append(sides[side].ask(name)["elapsed_s"])
    memory = {side: each["memory"] for side, each in first.items()}
    return row | {"samples_s": found, "memory": memory}


def figures(row: Row) -> Iterator[Figure]:
    """Say how the seconds compare, as the median of the ratios of neighbours."""
    from results import at_least

    if "reason" in row:
        return
    samples = row["samples_s"]
    ratios = [b / a for b, a in zip(samples["before"], samples["after"], strict=True)]
    found = round(median(ratios), 3)
    name = f"{row['case']}: seconds before / after"
    yield at_least(name, AIM, "times", found)


def _line(row: Row) -> str:
    if "reason" in row:
        return f"{row['case']}: {row['reason']}"
    before, after = (median(row["samples_s"][side]) for side in _SIDES)
    ratio = next(figures(row)).found
    peaks = {
        key: [row["memory"][side][key] / 1e6 for side in ("before", "after")] for key in _MEMORY
    }
    memory = ", ".join(f"{key} {b:.0f} -> {a:.0f} MB" for key, (b, a) in peaks.items())
    identical = "" if row["identical"] else " NOT IDENTICAL"
    return f"{row['case']}: {before:.4f} -> {after:.4f} s, {ratio:.3f}{identical}; {memory}"


class _Side:
    """A process of one of the trees, which answers by a line of JSON for every name it is told."""

    def __init__(self, asked: IO[str], answers: IO[str]) -> None:
        self._asked, self._answers = asked, answers

    def ask(self, name: str) -> Row:
        print(name, file=self._asked, flush=True)
        answer = self._answers.readline()
        if not answer:
            raise SystemExit(f"the process of one tree ended in {name}")
        found: Row = json.loads(answer)
        return found


@contextmanager
def _process(args: argparse.Namespace, tree: Path | None) -> Iterator[_Side]:
    path = os.environ.get("PYTHONPATH", "")
    environment = os.environ | ({"PYTHONPATH": f"{tree.resolve()}:{path}"} if tree else {})
    with ExitStack() as stack:
        folders = [
            stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="thaw-compared-"))
            for folder in (args.tmpfs, args.disk)
        ]
        wish = vars(args) | {"tmpfs": folders[0], "disk": folders[1], "tree": tree}
        command = [sys.executable, __file__, "--answer", json.dumps(wish, default=str)]
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdin and child.stdout
            yield _Side(child.stdin, child.stdout)


def answer(wish: Row) -> None:
    """Do what standard input names, once for each line."""
    import thaw

    if (tree := wish["tree"]) and not Path(thaw.__file__).is_relative_to(Path(tree).resolve()):
        raise SystemExit(f"{thaw.__file__} is not of {tree}")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed must not get between the answers
    kept = _Kept(wish)
    for line in sys.stdin:
        print(json.dumps(kept.do(line.strip())), file=answers, flush=True)


class _Kept:
    """What a process keeps from one case to the next."""

    def __init__(self, wish: Row) -> None:
        import torch

        from llama import llama, split

        self._wish, self._name = wish, ""
        device = wish["device"]
        self._device = torch.device("cuda", 0) if device == "cuda" else torch.device(device)
        self._shapes = {"": llama(wish["nbytes"]), "many": split(wish["count"], wish["many"])}
        self._move: Callable[[], Any] = lambda: None

    def do(self, name: str) -> Row:
        """Do a case and time it; the first time compare what it moved."""
        import thaw
        from gauges import Sampler

        if name == self._name:
            return {"elapsed_s": self._timed()[1]}
        self._move, self._name = (lambda: None), name
        try:
            self._begin(*name.split("/"))
            with Sampler(self._device) as sampler:
                found = self._timed()[0]
        except thaw.ThawError as error:
            return {"reason": str(error)}
        return {"identical": self._right(found), "memory": sampler.extra(0, 0)}

    def _begin(self, action: str, place: str, backend: str) -> None:
        import torch

        import thaw
        from llama import allocate, make

        shapes, device = self._of(action), self._device
        path = Path(self._wish[place], f"{action}.thaw")
        if action == "freeze":
            made = make(shapes, device)

            def freeze() -> Path:
                path.unlink(missing_ok=True)
                thaw.freeze(made, path, backend=backend)
                return path

            self._move = freeze
            return
        if not path.exists():
            thaw.freeze(make(shapes, device), path)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if action.endswith("into"):
            into = allocate(shapes, device)
            self._move = lambda: thaw.restore(path, into=into, backend=backend)
        else:
            self._move = lambda: thaw.restore(path, device=device, backend=backend)

    def _of(self, action: str) -> Any:
        return self._shapes["many" if action.startswith("many") else ""]

    def _timed(self) -> tuple[Any, float]:
        import time

        self._synchronize()
        began = time.perf_counter()
        found = self._move()
        self._synchronize()
        return found, time.perf_counter() - began

    def _synchronize(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _right(self, found: Any) -> bool:
        import thaw
        from llama import problems

        tensors = thaw.restore(found, device=self._device) if isinstance(found, Path) else found
        return not problems(tensors, self._of(self._name.partition("/")[0]), self._device)


def _sizes(args: argparse.Namespace) -> Row:
    return {key: getattr(args, key) for key in ("device", "nbytes", "count", "many", "pairs")}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="a folder with the packages of before")
    parser.add_argument("--before-commit", default="unknown")
    parser.add_argument("--commit", help="of this tree, where git cannot tell")
    parser.add_argument("--tmpfs", default="/dev/shm")
    parser.add_argument("--disk", default=tempfile.gettempdir())
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--nbytes", type=int, default=4 << 30, help="of the shapes of a model")
    parser.add_argument("--count", type=int, default=20_000, help="how many small tensors")
    parser.add_argument("--many", type=int, default=2 << 30, help="bytes of the small tensors")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--only", action="append", metavar="GLOB")
    parser.add_argument("--out", type=Path, default=Path("before_after.json"))
    args = parser.parse_args(arguments)
    args.only = args.only or ["*"]
    return args


if __name__ == "__main__":
    if sys.argv[1] == "--answer":
        answer(json.loads(sys.argv[2]))
    else:
        sys.exit(compare(parse()))
