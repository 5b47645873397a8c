"""Several processes freeze, list, mark and prune in one folder at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_sessions import session

from thaw.vllm.kv.folder import Folder

HERE = Path(__file__).parent
PROGRAM = """
import json, random, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from made_sessions import freeze, session
import thaw
from thaw.vllm.kv.folder import Folder

path, role, seed = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
dice, folder, ends = random.Random(seed), Folder(path), time.monotonic() + float(sys.argv[5])
counts, faults = dict(frozen=0, listed=0, pruned=0, opened=0), []
NAMES = "abcd"
while time.monotonic() < ends:
    if role == "freeze":
        name = dice.choice(NAMES)
        # As of engines with one rank, and of those with two, each with names of their own.
        ranks = 1 if name in "ab" else 2
        said = session(64 * dice.randint(1, 4), first=ord(name) * 1000)
        freeze(path / f"{name}.thaw", said, ranks=ranks)
        counts["frozen"] += 1
    elif role == "prune":
        counts["pruned"] += len(folder.prune(dice.choice([0, 20_000, 60_000])))
    else:
        for entry in folder.refresh() if dice.random() < 0.8 else folder.scan():
            counts["listed"] += 1
            if entry.error is not None:
                faults.append(f"{entry.name}: {entry.error}")
                continue
            said = entry.sessions[0]
            ids = memoryview(said.token_ids).cast("I")
            expected = range(ord(entry.name) * 1000, ord(entry.name) * 1000 + len(ids))
            if list(ids) != list(expected):
                faults.append(f"{entry.name}: other tokens")
            if len(entry.sessions) != (1 if entry.name in "ab" else 2):
                faults.append(f"{entry.name}: {len(entry.sessions)} ranks")
            if dice.random() < 0.3:
                folder.touch(entry)
                counts["opened"] += 1
print(json.dumps({"counts": counts, "faults": faults}))
"""
ROLES = ("freeze", "freeze", "prune", "prune", "list", "list")
SECONDS = 4.0


@pytest.mark.slow
def test_nobody_sees_half_of_anything(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, HERE, tmp_path, role, str(seed), str(SECONDS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed, role in enumerate(ROLES)
    ]
    answers = [process.communicate(timeout=120) for process in running]
    failed = [err for p, (_, err) in zip(running, answers, strict=True) if p.returncode]
    assert failed == []
    found = [json.loads(out) for out, _ in answers]
    assert [fault for each in found for fault in each["faults"]] == []
    for count in ("frozen", "listed", "pruned", "opened"):
        assert any(each["counts"][count] for each in found), count
    folder = Folder(tmp_path)
    folder.prune(0)
    assert folder.scan() == ()
    assert [each.name for each in tmp_path.iterdir()] == []


KILLED = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from made_sessions import freeze, session
from thaw.vllm.kv.folder import Folder

place, ranks, before, steps = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True", [-1]
STEPS = {"open", "os.rename", "os.truncate", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}

def watch(event, arguments):
    if event in STEPS and steps[0] >= 0:
        steps[0] -= 1
        if steps[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
freeze(place / "warm.thaw", ranks=ranks)
seen, status = [], -1
while status:
    folder = place / str(len(seen))
    folder.mkdir()
    if before:
        freeze(folder / "a.thaw", session(first=1), ranks=ranks)
    if not (child := os.fork()):
        steps[0] = len(seen) + 1
        freeze(folder / "a.thaw", session(first=1000), ranks=ranks)
        steps[0] = -1
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in {0, signal.SIGKILL}, status
    listed = Folder(folder).scan()
    seen.append([[e.error, e.sessions and e.sessions[0].token_ids.hex()] for e in listed])
print(json.dumps(seen))
"""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_a_freeze_that_is_killed_at_any_step_leaves_the_old_session_or_the_whole_one(
    tmp_path: Path, ranks: int, before: bool
) -> None:
    command = [sys.executable, "-c", KILLED, HERE, tmp_path, str(ranks), str(before)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    old = [[None, session(first=1).token_ids.hex()]] if before else []
    new = [[None, session(first=1000).token_ids.hex()]]
    seen = json.loads(done.stdout)
    whole = seen.index(new)
    assert whole >= 2
    assert seen == [old] * whole + [new] * (len(seen) - whole)
