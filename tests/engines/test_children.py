"""A child of the launcher is as if its caller had started it, from its first to its last."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import Place, line

ODD: dict[str, Callable[[], Any]] = {
    "plain": lambda: None,
    "umask": lambda: os.umask(0o027),
    "nice": lambda: os.nice(3),
    "one processor": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "few files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)),
    "no core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "hangups ignored": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    "interrupts ignored": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_child_has_all_that_its_caller_has(launched: Place, tmp_path: Path, odd: str) -> None:
    options: dict[str, Any] = {
        "preexec_fn": ODD[odd],
        "cwd": tmp_path,
        "input": "a line\nand another",
        "env": launched.environment | {"GREETING": "h\u00e9llo", "EMPTY": "", "ODD": "\udcff"},
    }
    ours = launched.run("describe", "an argument", "", "--x=\u00e9", **options)
    plain = launched.run("describe", "an argument", "", "--x=\u00e9", plain=True, **options)
    assert ours.returncode == plain.returncode == 0, ours.stderr
    assert json.loads(ours.stdout) == json.loads(plain.stdout)
    assert ours.stderr == plain.stderr == "and this on standard error\n"


@pytest.mark.parametrize(
    ("name", "argv", "status"),
    [
        ("nothing", [], 0),
        ("returns", [], 7),
        ("raises", [], 1),
        ("exits", [], 1),
        ("leaves", [], 3),
        ("dies", ["SIGKILL"], -signal.SIGKILL),
        ("dies", ["SIGTERM"], -signal.SIGTERM),
        ("dies", ["SIGINT"], -signal.SIGINT),
        ("dies", ["SIGSEGV"], -signal.SIGSEGV),
    ],
)
def test_it_ends_as_it_would_have_ended(
    launched: Place, name: str, argv: list[str], status: int
) -> None:
    ours, plain = (launched.run(name, *argv, plain=each) for each in (False, True))
    assert ours.returncode == plain.returncode == status
    assert ours.stdout == plain.stdout
    assert ours.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


@contextmanager
def begun(launched: Place) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a program that waits for signals; say who asked for it, and its own pid."""
    with launched.start("waits") as caller:
        try:
            word, pid = line(caller).split()
            assert word == "runs"
            yield caller, int(pid)
        finally:
            caller.kill()


def ended(pid: int) -> bool:
    """Say whether a process ends soon."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_signals_reach_the_child_and_not_the_launcher(launched: Place) -> None:
    with begun(launched) as (caller, pid):
        for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGTERM"):
            caller.send_signal(getattr(signal, name))
            assert line(caller) == f"{name}\n"
        assert caller.wait(20) == 5
        assert ended(pid)
    assert launched.run("returns").returncode == 7


def test_a_child_is_stopped_and_goes_on_with_its_caller(launched: Place) -> None:
    def state(of: int) -> str:
        return Path(f"/proc/{of}/stat").read_text().rpartition(") ")[2][0]

    def becomes(of: int, wanted: str) -> bool:
        deadline = time.monotonic() + 20
        while state(of) != wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        return state(of) == wanted

    with begun(launched) as (caller, pid):
        caller.send_signal(signal.SIGTSTP)
        assert becomes(pid, "T")
        assert becomes(caller.pid, "T")
        caller.send_signal(signal.SIGCONT)
        assert becomes(pid, "S")
        caller.send_signal(signal.SIGTERM)
        assert caller.wait(20) == 5


def test_a_child_whose_caller_was_killed_is_told_to_end(launched: Place) -> None:
    with begun(launched) as (caller, pid):
        caller.kill()
        assert ended(pid)


def test_children_share_no_chance(launched: Place) -> None:
    drawn = {launched.run("draws").stdout for _ in range(4)}
    assert len(drawn) == 4


def test_children_side_by_side_know_nothing_of_each_other(launched: Place) -> None:
    with ExitStack() as stack:
        all_begun = [stack.enter_context(begun(launched)) for _ in range(6)]
        found = json.loads(launched.run("describe").stdout)
        assert found["descriptors"] == [0, 1, 2]
        for caller, _ in all_begun[::2]:
            caller.terminate()
            assert caller.wait(20) == 5
        for caller, pid in all_begun[1::2]:
            assert Path(f"/proc/{pid}").exists()
            caller.terminate()
            assert caller.wait(20) == 5


def test_two_hundred_children_leave_nothing_behind(place: Place) -> None:
    place.launch()
    assert place.launcher is not None

    def held() -> tuple[int, int, list[str]]:
        pid = place.launcher.pid  # type: ignore[union-attr]
        status = Path(f"/proc/{pid}/status").read_text()
        (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(kib), len(os.listdir(f"/proc/{pid}/fd")), children

    def run(count: int) -> None:
        script = place.command("returns")[:-1]
        # In one process: starting two hundred would take most of the time.
        script[3] = (
            "import sys\nfrom thaw.engines import client\n"
            "from thaw.engines.launcher import Program\n"
            f"for _ in range({count}):\n"
            "    status = client.run(Program('programs:returns', ['']))\n"
            "    assert status == 7 << 8, status\n"
        )
        done = subprocess.run(
            script, env=place.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr

    run(20)
    kib, files, _ = held()
    run(200)
    more_kib, more_files, children = held()
    assert more_kib < kib + 2048
    assert more_files == files
    assert children == []
