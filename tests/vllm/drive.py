"""Run steps on real vLLM engines: `drive.py STEPS ANSWERS`, where both are JSON files.

Steps have a label, a name and arguments. What each returns or raises is noted under its label, and
the next one follows, so that a process, which takes long to start, serves several tests.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from async_steps import AsyncSteps
from model_steps import ModelSteps
from session_async_steps import AsyncSessionSteps
from session_steps import SessionSteps

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ENGINE: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 256,
    "kv_cache_memory_bytes": 64 << 20,
    "block_size": 32,
    "gpu_memory_utilization": 0.3,
    "dtype": "bfloat16",
}
PROMPTS = ([1, 2, 3, 4, 5], list(range(40)), [7])
TOKENS = 16
_TASKS = ("embed", "token_embed", "classify", "token_classify")


class Steps(AsyncSteps, ModelSteps, SessionSteps, AsyncSessionSteps):
    """What can be asked for. At most one engine lives at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._llm: Any = None

    def save(self, name: str, folder: str = "", seed: int = 0) -> None:
        """Write a small model with random weights."""
        sys.path.insert(0, str(BENCHMARKS))
        import engine_models

        engine_models.save(name, Path(folder or name), seed=seed)

    def save_small(self, name: str) -> None:
        """Write one of the models of many architectures."""
        import small_models

        small_models.save(name, Path(name))

    def states(self, model: str, **engine: Any) -> dict[str, Any]:
        """Compare what workers hold of a model that was loaded in each way there is."""
        import states

        return states.load_in_all_ways(model, engine)

    def multiprocessing(self, on: bool) -> None:
        """Have engines in a process of their own; vLLM looks no more after the first in here."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(on))

    def start(self, **engine: Any) -> None:
        from vllm import LLM

        self._start(lambda: LLM(**(ENGINE | engine)))

    def load(self, model: str, snapshot: str, **engine: Any) -> None:
        import thaw_vllm

        self._start(lambda: thaw_vllm.load(model, snapshot, **(ENGINE | engine)))

    def start_async(self, **engine: Any) -> None:
        self.async_start(**(ENGINE | engine))

    def _start(self, make: Callable[[], Any]) -> None:
        try:
            self._llm = make()
        finally:
            if self._llm is None:
                _clean_up()

    def packs(self) -> bool:
        """Say whether vLLM packs weights by oneDNN here; where that fails it does without."""
        import torch
        from vllm import _custom_ops

        if not _custom_ops._supports_onednn:
            return False
        try:
            _custom_ops.create_onednn_mm(torch.zeros(64, 64, dtype=torch.bfloat16).t(), 32)
        except RuntimeError:
            return False
        return True

    def stop(self) -> None:
        llm, self._llm = self._llm, None
        llm.llm_engine.engine_core.shutdown()
        del llm
        _clean_up()

    def decode(self) -> list[Any]:
        """Decode greedily: of each prompt the tokens, and the logprobs of each."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False, logprobs=3
        )
        # One by one: results depend, in their last bits, on what shares a batch.
        found = [
            self._llm.generate([{"prompt_token_ids": each}], parameters)[0].outputs[0]
            for each in PROMPTS
        ]
        return [
            {
                "tokens": list(each.token_ids),
                "logprobs": [
                    sorted((key, said.logprob) for key, said in step.items())
                    for step in each.logprobs
                ],
            }
            for each in found
        ]

    def embed(self) -> list[Any]:
        """Return what a pooling model makes of each prompt, to the last bit."""
        return self._pooled("encode")

    def classify(self) -> list[Any]:
        return self._pooled("classify")

    def _pooled(self, way: str) -> list[Any]:
        from vllm import PoolingParams

        found = []
        for each in PROMPTS:
            prompt = [{"prompt_token_ids": each}]
            if way == "classify":
                answer = self._llm.classify(prompt)[0].outputs.probs
            else:
                task = next(task for task in _TASKS if task in self._llm.supported_tasks)
                parameters = PoolingParams(use_activation=False)
                answer = self._llm.encode(prompt, parameters, pooling_task=task)[0].outputs.data
                answer = answer.flatten().tolist()
            found.append([float(value).hex() for value in answer])
        return found

    def freeze(self, **options: Any) -> dict[str, Any]:
        import thaw_vllm

        return _said(thaw_vllm.freeze(**(ENGINE | options)))

    def freeze_live(self, path: str, **options: Any) -> dict[str, Any]:
        import thaw_vllm

        return _said(thaw_vllm.freeze_engine(self._llm, path, **options))

    def restore_live(self, path: str, **options: Any) -> dict[str, Any]:
        import thaw_vllm

        return _said(thaw_vllm.restore_engine(self._llm, path, **options))

    def restore_running(self, path: str, **options: Any) -> dict[str, str]:
        """Restore from another thread while the engine decodes; return what both raised, if so."""

        def restore() -> Any:
            while not self._llm.llm_engine.has_unfinished_requests():
                time.sleep(0.001)
            return self.restore_live(path, **options)

        with ThreadPoolExecutor(1) as pool:
            restoring, decoding = pool.submit(restore), Future[Any]()
            # Attention on a CPU counts on the thread that it began with.
            try:
                decoding.set_result(self.decode())
            except Exception as error:  # noqa: BLE001 - the tests look at it
                decoding.set_exception(error)
            return {"restoring": _raised(restoring), "decoding": _raised(decoding)}

    def verify(self, path: str) -> list[str]:
        import thaw_vllm

        return list(thaw_vllm.verify(self._llm, path).differences)

    def serve(self, options: Sequence[str]) -> list[Any]:
        """Serve a model over HTTP, and complete each prompt there."""
        port = _free_port()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", "127.0.0.1", "--port", str(port), *_options(ENGINE), *options]
        server = subprocess.Popen(command)
        try:
            _wait_for(server, port)
            return [_complete(port, prompt) for prompt in PROMPTS]
        finally:
            server.terminate()
            server.wait()

    def edit(self, source: str, path: str, drop: str = "", add: str = "") -> None:
        """Copy a snapshot of one rank, a tensor less or a tensor more."""
        import torch

        import thaw

        tensors = dict(thaw.restore(source))
        if drop:
            del tensors[drop]
        if add:
            tensors[add] = torch.zeros(3)
        with thaw.open(source) as snapshot:
            thaw.freeze(tensors, path, metadata=snapshot.metadata)

    def narrow(self, source: str, path: str, name: str) -> None:
        """Copy a snapshot of one rank with a tensor that is a row short."""
        import thaw

        tensors = dict(thaw.restore(source))
        tensors[name] = tensors[name][1:].clone()
        with thaw.open(source) as snapshot:
            thaw.freeze(tensors, path, metadata=snapshot.metadata)

    def flip(self, source: str, path: str, file: str = "") -> None:
        """Copy a snapshot and flip one bit in the middle of its payload."""
        copy = shutil.copytree if Path(source).is_dir() else shutil.copyfile
        copy(source, path)
        damaged = Path(path, file) if file else Path(path)
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)

    def copy_without(self, source: str, path: str, file: str) -> None:
        shutil.copytree(source, path)
        Path(path, file).unlink()


def _raised(future: Future[Any]) -> str:
    error = future.exception()
    return f"{type(error).__name__}: {error}" if error else ""


def _said(report: Any) -> dict[str, Any]:
    return asdict(report) | {"path": str(report.path)}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _options(engine: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in engine.items():
        option = f"--{name.replace('_', '-')}"
        found += [option] if value is True else [option, str(value)]
    return found


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the server ended with status {server.returncode}")


def _complete(port: int, prompt: Sequence[int]) -> list[int]:
    wanted = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    body = json.dumps(wanted | {"detokenize": False, "return_token_ids": True}).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/completions", body)
    request.add_header("Content-Type", "application/json")
    with urlopen(request) as response:
        return list(json.load(response)["choices"][0]["token_ids"])


def _clean_up() -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    gc.collect()


def main(request: str, answers: str) -> None:
    steps = Steps()
    for label, name, arguments in json.loads(Path(request).read_text()):
        print(f"\n== {label}\n{name} {arguments}", flush=True)
        try:
            answer = {"value": getattr(steps, name)(**arguments)}
        except Exception as error:  # noqa: BLE001 - the tests look at it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stderr.flush()
        with Path(answers).open("a") as out:
            print(json.dumps({"label": label} | answer), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
