"""A server of vLLM, forked from a launcher that has really imported it, and started plainly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LIMIT_S = 180
QUIET = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
OPTIONS = ["--skip-tokenizer-init", "--max-model-len=256", "--enforce-eager"]
MEMORY = ["--gpu-memory-utilization=0.3", f"--kv-cache-memory-bytes={64 << 20}"]


@pytest.fixture(scope="module")
def folder(run_engines: Callable[..., Any]) -> Path:
    """A folder with a model, and with a snapshot of it."""
    answers = run_engines("launched", [("saved", "save", {"name": "llama"})], limit_s=LIMIT_S)
    answers.value("saved")
    found: Path = answers.folder
    (found / "run").mkdir(0o700)
    frozen = ["freeze", "--model", "./llama", "-o", "llama.thaw", *OPTIONS[:2], MEMORY[0]]
    thaw(found, *frozen)
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, **QUIET, "XDG_RUNTIME_DIR": str(folder / "run")}


def thaw(folder: Path, *arguments: str) -> str:
    """Run a command that ends well; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "thaw", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `thaw run` until its server is well; yield it and the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "thaw", "run", "--model", "./llama"]
    command += ["--snapshot", "llama.thaw", "--", "--port", str(port), *OPTIONS, *MEMORY]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdout=out,
            stderr=out,
            preexec_fn=_take_interrupts,  # noqa: PLW1509 - no threads run here
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not _is_well(port):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        yield server, port
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()
        server.wait()


def _take_interrupts() -> None:
    """Do not ignore them, as shells have what runs in their background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_well(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def completed(port: int) -> list[int]:
    body = {"prompt": list(range(5, 50)), "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    body |= {"detokenize": False, "return_token_ids": True}
    request = Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=60) as answer:
        found: list[int] = json.load(answer)["choices"][0]["token_ids"]
    return found


def end(server: subprocess.Popen[bytes], port: int) -> int:
    """Press Ctrl-C; return how the command ended."""
    server.send_signal(signal.SIGINT)
    status = server.wait(60)
    assert not _is_well(port)
    return status


@pytest.fixture(scope="module")
def plain(folder: Path) -> Mapping[str, Any]:
    """What a server says that was started without a launcher."""
    log = folder / "plain.log"
    with serving(folder, log) as (server, port):
        said = {"tokens": completed(port), "status": end(server, port)}
    return said | {"log": log.read_text()}


def test_without_a_launcher_it_is_started_plainly_and_says_so(plain: Mapping[str, Any]) -> None:
    assert len(plain["tokens"]) == 8
    assert "no launcher runs in this Python environment: vLLM is started plainly" in plain["log"]


def test_a_forked_server_serves_and_ends_as_a_plain_one(
    folder: Path, plain: Mapping[str, Any]
) -> None:
    began = json.loads(thaw(folder, "launcher", "start", "--json"))
    try:
        log = folder / "forked.log"
        for _ in range(2):
            with serving(folder, log) as (server, port):
                status = json.loads(thaw(folder, "launcher", "status", "--json"))
                (child,) = status["children"]
                assert completed(port) == plain["tokens"]
                # It is vLLM's own server, which the launcher has forked.
                assert psutil.Process(child).ppid() == began["pid"]
                assert f"(APIServer pid={child})" in log.read_text()
                assert "started plainly" not in log.read_text()
                assert end(server, port) == plain["status"]
            assert not psutil.pid_exists(child)
        status = json.loads(thaw(folder, "launcher", "status", "--json"))
        assert (status["forked"], status["children"], status["changed"]) == (2, [], None)
    finally:
        thaw(folder, "launcher", "stop")
