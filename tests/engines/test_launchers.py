"""When there is a launcher, when it is used, and what it survives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import Place, line

from thaw.engines import client, wire
from thaw.engines import place as places
from thaw.engines.caller import Caller
from thaw.engines.launcher import PROTOCOL, Program

NONE = 77
THREAD = """\
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return why no launcher was used."""
    assert done.returncode == NONE, (done.returncode, done.stderr)
    return done.stderr


def test_where_none_runs_it_says_so(place: Place) -> None:
    assert "no launcher runs in this Python environment" in refused(place.run("returns"))


def test_a_socket_that_one_left_is_none(place: Place) -> None:
    place.launch()
    assert place.launcher is not None
    place.launcher.kill()
    place.launcher.wait()
    assert list(place.folder.glob("thaw/*.sock"))
    assert "no launcher runs" in refused(place.run("returns"))
    place.launch()
    assert place.run("returns").returncode == 7


def test_there_is_one_for_an_environment(launched: Place, tmp_path: Path) -> None:
    other = Place(launched.folder)
    other.launch()
    assert other.said == {"refused": "a launcher of this Python environment runs already"}
    assert other.launcher is not None
    assert other.launcher.wait(20) == 1
    assert launched.run("returns").returncode == 7


def test_folder_and_socket_are_its_users_alone(launched: Place) -> None:
    folder = launched.folder / "thaw"
    assert folder.stat().st_mode & 0o777 == 0o700
    for each in folder.iterdir():
        assert each.stat().st_mode & 0o077 == 0, each


@pytest.mark.parametrize("how", ["open", "link", "file"])
def test_a_folder_that_others_may_enter_is_not_used(place: Place, how: str) -> None:
    folder = place.folder / "thaw"
    if how == "open":
        folder.mkdir()
        folder.chmod(0o755)
    elif how == "link":
        (place.folder / "elsewhere").mkdir(0o700)
        folder.symlink_to("elsewhere")
    else:
        folder.write_text("")
    place.launch()
    assert place.said == {}
    assert place.launcher is not None
    assert place.launcher.wait(20) == 1
    done = place.run("returns")
    assert done.returncode == 1
    assert "no launcher is used" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")
def test_a_launcher_of_another_user_is_refused_on_both_sides(
    launched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(launched.folder))
    monkeypatch.setattr(wire, "peer", lambda _: (1, 65534))
    with pytest.raises(client.NoLauncherError, match="of user 65534"):
        client.ask("status")
    monkeypatch.undo()
    (path,) = launched.folder.glob("thaw/*.sock")
    # The path to the socket leads no other user to it, but a process that is there already.
    script = (
        "import os, socket, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from thaw.engines import wire\n"
        "os.setuid(65534)\n"
        "made = socket.socket(socket.AF_UNIX)\n"
        f"made.connect({path.name!r})\n"
        "wire.send(made, {'verb': 'status'})\n"
        "print(wire.receive(made))\n"
    )
    path.parent.chmod(0o711)
    path.chmod(0o666)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            cwd=path.parent,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert "it is of user 0, and you are user 65534" in done.stdout, done.stderr
    assert launched.run("returns").returncode == 7


def test_what_was_read_by_imports_decides(place: Place, tmp_path: Path) -> None:
    module = tmp_path / "reads_settings.py"
    module.write_text("import os\nFOUND = os.environ.get('READ_HERE'), dict(os.environ)\n")
    options = {"env": {**place.environment, "READ_HERE": "1", "LISTED": "1"}}
    options["env"]["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    place.launch(["programs", "reads_settings"], **options)
    assert place.run("returns", **options).returncode == 7
    # What was only listed may be another.
    other = options["env"] | {"LISTED": "2", "MORE": "3"}
    assert place.run("returns", env=other).returncode == 7
    for value in ({"READ_HERE": "2"}, {"OMP_NUM_THREADS": "7"}, {"PYTHONHASHSEED": "1"}):
        (name,) = value
        said = refused(place.run("returns", env=options["env"] | value))
        assert f"{name} is {value[name]!r}, and was" in said
    del other["READ_HERE"]
    assert "READ_HERE is not set, and was '1' when" in refused(place.run("returns", env=other))


@pytest.mark.parametrize("how", ["edited", "removed"])
def test_modules_that_have_changed_since_are_not_used(
    place: Place, tmp_path: Path, how: str
) -> None:
    module = tmp_path / "imported_early.py"
    module.write_text("FOUND = 1\n")
    env = {**place.environment}
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    place.launch(["programs", "imported_early"], env=env)
    assert place.run("returns", env=env).returncode == 7
    if how == "edited":
        module.write_text("FOUND = 2\n")
    else:
        module.unlink()
    assert f"{module} has changed" in refused(place.run("returns", env=env))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (THREAD, "threads, which a fork would lose"),
        ("import torch\ntorch.cuda.is_initialized = lambda: True\n", "CUDA was initialized"),
        (
            "from thaw.engines import preload\npreload._cuda_status = lambda: 3\n",
            "CUDA was initialized",
        ),
    ],
)
def test_one_that_cannot_be_forked_does_not_start(
    place: Place, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "harmful.py").write_text(text)
    env = {**place.environment}
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    place.launch(["harmful"], env=env)
    assert said in place.said["refused"]
    assert place.launcher is not None
    assert place.launcher.wait(20) == 1
    assert "no launcher runs" in refused(place.run("returns"))


def test_children_go_on_when_it_is_killed(place: Place) -> None:
    place.launch()
    assert place.launcher is not None
    with place.start("waits", stderr=subprocess.PIPE) as caller:
        assert line(caller).startswith("runs")
        place.launcher.kill()
        place.launcher.wait()
        caller.send_signal(signal.SIGUSR1)
        assert line(caller) == "SIGUSR1\n"
        caller.send_signal(signal.SIGTERM)
        assert line(caller) == "SIGTERM\n"
        _, errors = caller.communicate(timeout=20)
    assert "the launcher ended before its child did, whose status is lost" in errors


def test_it_stops_when_told_to_and_children_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.launch()
    assert place.launcher is not None
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.folder))
    with place.start("waits", stderr=subprocess.PIPE) as caller:
        pid = int(line(caller).split()[1])
        status = client.ask("status")
        assert (status["pid"], status["children"]) == (place.launcher.pid, [pid])
        assert client.ask("stop")["children"] == [pid]
        assert place.launcher.wait(20) == 0
        assert not list(place.folder.glob("thaw/*.sock"))
        caller.send_signal(signal.SIGTERM)
        assert line(caller) == "SIGTERM\n"
        caller.communicate(timeout=20)
    with pytest.raises(client.NoLauncherError, match="no launcher runs"):
        client.ask("status")


def speak(launched: Place, data: bytes) -> bytes:
    """Say something to a launcher, and hear what it says until it hangs up."""
    (path,) = launched.folder.glob("thaw/*.sock")
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(20)
        with places.address_of(path) as address:
            made.connect(address)
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)
        heard = b""
        while part := made.recv(4096):
            heard += part
    return heard


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\xff\xff\xff\xff",
        b"\5\0\0\0{",
        b"\5\0\0\0hello",
        b"\2\0\0\0[]",
        b"\2\0\0\0{}",
        b'\20\0\0\0{"verb":"start"}',
        b'\x0e\0\0\0{"verb": "no"}',
    ],
)
def test_it_survives_whatever_it_is_told(launched: Place, data: bytes) -> None:
    heard = speak(launched, data)
    assert b"Traceback" not in heard
    assert launched.run("returns").returncode == 7


@pytest.mark.parametrize(
    ("member", "value"),
    [("limits", {"RLIMIT_NOFILE": [5, 3]}), ("affinity", []), ("niceness", "x"), ("umask", None)],
)
def test_a_caller_that_no_child_can_be_like_is_told_so(
    launched: Place, member: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, each in launched.environment.items():
        monkeypatch.setenv(name, each)
    caller = replace(Caller.this(), **{member: value})
    with pytest.raises(client.NoLauncherError, match=r"not used: (\w+Error: |)"):
        client.start(Program("programs:returns", [""]), caller)
    monkeypatch.undo()
    assert launched.run("returns").returncode == 7


def test_one_that_hangs_holds_up_no_other_for_long(launched: Place) -> None:
    (path,) = launched.folder.glob("thaw/*.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        with places.address_of(path) as address:
            silent.connect(address)
        began = time.monotonic()
        assert launched.run("returns").returncode == 7
        assert time.monotonic() - began < 30


def test_a_socket_is_of_an_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    one = places.socket_path()
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    assert places.socket_path() != one


def test_no_child_begins_whose_caller_does_not_know_of_it(
    launched: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that gave up has started its server itself by now."""
    for name, each in launched.environment.items():
        monkeypatch.setenv(name, each)
    touched = [tmp_path / "gave up", tmp_path / "waited"]
    (path,) = launched.folder.glob("thaw/*.sock")
    message = {"verb": "start", "protocol": PROTOCOL, "entry": "programs:touches"}
    message |= {"argv": [str(touched[0])], "caller": Caller.this().record()}
    monkeypatch.undo()
    with socket.socket(socket.AF_UNIX) as made, open(os.devnull, "r+b") as null:
        with places.address_of(path) as address:
            made.connect(address)
        folder = os.open("/", os.O_PATH)
        wire.send(made, message, [null.fileno()] * 3 + [folder])
        os.close(folder)
    # It comes after that one, and has ended.
    assert launched.run("touches", str(touched[1])).returncode == 0
    assert [each.exists() for each in touched] == [False, True]


def test_a_long_path_is_none_too_many(place: Place) -> None:
    place.folder = place.folder / ("long" * 30)
    place.folder.mkdir()
    place.launch()
    assert place.run("returns").returncode == 7
