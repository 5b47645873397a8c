"""`thaw launcher`, and `thaw run` with it; a stand-in for vLLM is really imported."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from thaw.cli import launching
from thaw.cli.app import app
from thaw.cli.shapes import OUTPUTS
from thaw.engines import client
from thaw.engines.preload import MODULES

SERVER = """
import json, os, signal, sys
if __name__ == "__main__":
    print(json.dumps({"argv": sys.argv, "pid": os.getpid(), "folder": os.getcwd()}), flush=True)
    if "--wait" in sys.argv:
        signal.pause()
    sys.exit(7)
"""


def _take_interrupts() -> None:
    """Do not ignore them, as shells have what runs in their background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Machine:
    """A folder with a vLLM that does nothing, a snapshot, and a place for one launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run_folder = folder, folder / "run"
        self.run_folder.mkdir(0o700)
        (folder / "x.thaw").touch()
        for name in (each for each in MODULES if each.startswith("vllm.")):
            self.write(name, SERVER if name.endswith(".api_server") else "")

    def write(self, module: str, text: str) -> None:
        path = self.folder.joinpath("site", *module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in path.relative_to(self.folder / "site").parents[:-1]:
            beginning = self.folder / "site" / each / "__init__.py"
            if not beginning.exists():
                beginning.touch()
        path.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        known = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
        paths = os.pathsep.join([str(self.folder / "site"), *known])
        return os.environ | {"PYTHONPATH": paths, "XDG_RUNTIME_DIR": str(self.run_folder)}

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "thaw", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
            preexec_fn=_take_interrupts,  # noqa: PLW1509 - no threads run here
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.begin(*arguments) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def json(self, *arguments: str) -> Any:
        status, out, err = self.run(*arguments, "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert found.keys() == OUTPUTS[" ".join(arguments)].__required_keys__
        return found


RUN = ("run", "--model", "m", "--snapshot", "x.thaw")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.run("launcher", "stop")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("launched"))
    assert made.json("launcher", "start")["started"] is True
    yield made
    made.run("launcher", "stop")


def arguments_of(machine: Machine, *more: str) -> list[str]:
    extra = json.dumps({"snapshot": f"{machine.folder}/x.thaw", "backend": "auto"})
    ours = ["--model", "m", "--load-format", "thaw", "--model-loader-extra-config", extra]
    return [*ours, *more]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_it_starts_once_and_stops(machine: Machine) -> None:
    status, out, err = machine.run("launcher", "start")
    assert (status, err) == (0, "")
    assert out.startswith("✓ started the launcher, process ")
    found = machine.json("launcher", "start")
    assert found["started"] is False
    pid = found["pid"]
    assert machine.run("launcher", "start")[1].startswith(
        f"✓ a launcher runs already, process {pid}"
    )
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    (log,) = (machine.run_folder / "thaw").glob("launcher-*.log")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2") == str(log)
    assert machine.json("launcher", "stop") == {"pid": pid, "children": []}
    assert ended(pid)
    for verb in ("stop", "status"):
        status, out, err = machine.run("launcher", verb)
        assert (status, out) == (1, "")
        assert err == "thaw: no launcher runs in this Python environment\n"


def test_a_server_is_forked_and_its_exit_code_is_the_command_s(launched: Machine) -> None:
    before = launched.json("launcher", "status")
    status, out, err = launched.run(*RUN, "--", "--port", "8000", "--", "-x")
    found = json.loads(out)
    assert (status, err) == (7, "")
    assert found["argv"][1:] == arguments_of(launched, "--port", "8000", "--", "-x")
    assert found["folder"] == str(launched.folder)
    after = launched.json("launcher", "status")
    assert (after["forked"], after["children"]) == (before["forked"] + 1, [])


def test_a_server_that_runs_is_seen_and_ends_with_its_command(launched: Machine) -> None:
    pid = launched.json("launcher", "status")["pid"]
    with launched.begin(*RUN, "--", "--wait") as process:
        assert process.stdout is not None
        server = json.loads(process.stdout.readline())["pid"]
        assert parent(server) == pid
        assert launched.json("launcher", "status")["children"] == [server]
        shown = launched.run("launcher", "status")[1]
        assert f"✓ the launcher runs: process {pid}, started " in shown
        assert f"running: {server}\n" in shown
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert launched.json("launcher", "status")["children"] == []


def test_servers_go_on_when_the_launcher_is_stopped(machine: Machine) -> None:
    machine.json("launcher", "start")
    with machine.begin(*RUN, "--", "--wait") as process:
        assert process.stdout is not None
        server = json.loads(process.stdout.readline())["pid"]
        assert machine.run("launcher", "stop")[1].endswith("; 1 server goes on\n")
        time.sleep(0.2)
        assert "State:\tS" in Path(f"/proc/{server}/status").read_text()
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "status is lost" in err


def test_without_a_launcher_it_is_started_plainly_and_said(machine: Machine) -> None:
    with machine.begin(*RUN, "--", "--port", "8000") as process:
        out, err = process.communicate(timeout=120)
    found = json.loads(out)
    assert process.returncode == 7
    assert err == ("thaw: no launcher runs in this Python environment: vLLM is started plainly\n")
    assert found["pid"] == process.pid
    assert found["argv"][1:] == arguments_of(machine, "--port", "8000")


def test_a_launcher_that_does_not_fit_is_not_used_and_said(launched: Machine) -> None:
    launched.write("vllm.v1.engine.core", "edited = True")
    status, out, err = launched.run(*RUN)
    assert status == 7
    assert err.startswith("thaw: the launcher is not used: ")
    assert "core.py has changed: vLLM is started plainly\n" in err
    assert json.loads(out)["argv"][1:] == arguments_of(launched)


def test_one_that_cannot_start_says_why(machine: Machine) -> None:
    machine.write(
        "vllm.v1.engine.core",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True, name='mine').start()\n",
    )
    status, out, err = machine.run("launcher", "start")
    assert (status, out) == (1, "")
    assert err.startswith("thaw: the launcher cannot start: it has 2 threads")
    assert err.count("\n") == 1


def test_one_that_fails_says_the_last_line_of_its_log(machine: Machine) -> None:
    machine.write("vllm.v1.engine.core", "raise RuntimeError('out of order')")
    status, out, err = machine.run("launcher", "start")
    (log,) = (machine.run_folder / "thaw").glob("launcher-*.log")
    assert (status, out) == (1, "")
    assert err == (
        "thaw: the launcher cannot start: RuntimeError: out of order "
        f"({log} has all that it said)\n"
    )
    assert "Traceback" in log.read_text()
    machine.write("vllm.v1.engine.core", "import os; os._exit(3)")
    status, _, err = machine.run("launcher", "start", "--json")
    found = json.loads(err)
    assert (status, found["code"]) == (1, "launcher")
    assert "it ended with status 3 and said nothing" in found["message"]


def test_a_folder_that_others_may_enter_is_refused(machine: Machine) -> None:
    folder = machine.run_folder / "thaw"
    folder.mkdir()
    folder.chmod(0o755)
    for verb in ("start", "stop", "status"):
        status, out, err = machine.run("launcher", verb)
        assert (status, out) == (1, "")
        assert err == f"thaw: others may enter {folder}: no launcher is used; chmod 700 it\n"
    status, _, err = machine.run(*RUN)
    assert status == 7
    assert err.startswith(f"thaw: others may enter {folder}")
    assert err.endswith(": vLLM is started plainly\n")


def test_an_interrupted_start_leaves_no_launcher(machine: Machine) -> None:
    reached = machine.folder / "reached"
    machine.write(
        "vllm.v1.engine.core",
        "import os, time\n"
        f"open({str(reached)!r} + '-', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(reached)!r} + '-', {str(reached)!r})\n"
        "time.sleep(60)\n",
    )
    with machine.begin("launcher", "start") as process:
        while not reached.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "thaw: interrupted\n")
    assert ended(int(reached.read_text()))


STATUS: Mapping[str, Any] = {
    "pid": 7,
    "began": 1_700_000_000.5,
    "elapsed_s": 12.5,
    "modules": 3000,
    "forked": 2,
    "children": [8, 9],
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_one_that_has_changed_is_told_and_not_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ask", lambda verb: STATUS | {"changed": "x.py has changed"})
    done = invoke("launcher", "start")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "process 7, and is not used: x.py has changed; `thaw launcher stop`" in done.stderr
    assert "it is not used: x.py has changed" in invoke("launcher", "status").stdout
    found = json.loads(invoke("launcher", "status", "--json").stdout)
    assert found["changed"] == "x.py has changed"
    assert found["started_at"] == "2023-11-14T22:13:20+00:00"


def test_one_that_is_started_meanwhile_is_found(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([client.NoLauncherError("none"), STATUS, client.NoLauncherError("none")])

    def ask(verb: str) -> Any:
        answer = next(answers, client.NoLauncherError("none"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(launching, "_launch", lambda log: {"refused": "there is one"})
    assert json.loads(invoke("launcher", "start", "--json").stdout)["started"] is False
    done = invoke("launcher", "start")
    assert (done.exit_code, done.stderr) == (
        1,
        "thaw: the launcher cannot start: there is one\n",
    )


def test_one_that_refuses_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ask", lambda verb: {"refused": "you are user 9"})
    for verb in ("start", "stop", "status"):
        done = invoke("launcher", verb)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == "thaw: the launcher does not answer: you are user 9\n"


def test_one_that_does_not_end_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ask", lambda verb: STATUS | {"pid": os.getpid()})
    monkeypatch.setattr(launching, "_PATIENCE_S", 0.01)
    done = invoke("launcher", "stop")
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"kill -9 {os.getpid()}" in done.stderr


def test_one_whose_process_has_gone_was_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    monkeypatch.setattr(client, "ask", lambda verb: STATUS | {"pid": int(gone.stdout)})
    assert invoke("launcher", "stop").stdout.endswith("; 2 servers go on\n")
    assert invoke("launcher", "stop", "--quiet").output == ""
