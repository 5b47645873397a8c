"""What `drive.py` does with sessions of an `AsyncLLM`, and of a server over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TOKENS = 8
_READY_S = 120


class AsyncSessionSteps:
    """`_engine` and `_run` are those of `async_steps.AsyncSteps`."""

    _engine: Any
    _sent = 0

    def serve_sessions_async(self, model: str, folder: str = "sessions", **options: Any) -> None:
        from thaw.vllm.offline import connector_to

        config = connector_to(folder)
        self.start_async(model=model, kv_transfer_config=config, **options)  # type: ignore[attr-defined]

    def send(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """Decode prompts at once."""

        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*(self._send(each, **options) for each in prompts)))

        return self._finish(all_of_them())

    def send_and_abort(
        self, prompt: Sequence[int], after_s: float, others: int = 0, **options: Any
    ) -> list[Any]:
        """Begin with a prompt, and abort it after a while; others want the same meanwhile."""

        async def both() -> list[Any]:
            first = asyncio.create_task(self._send(prompt, **options))
            await asyncio.sleep(0.05)
            rest = [asyncio.create_task(self._send(prompt)) for _ in range(others)]
            await asyncio.sleep(after_s)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
            return list(await asyncio.gather(*rest))

        return self._finish(both())

    def freeze_async(self, prompt: Sequence[int], path: str) -> Any:
        import thaw_vllm

        return _said(self._finish(thaw_vllm.freeze_session(self._engine, prompt, path)))

    def restore_async(self, path: str) -> Any:
        import thaw_vllm

        return _said(self._finish(thaw_vllm.restore_session(self._engine, path)))

    def reset_async(self, limit_s: float = 10) -> bool:
        """Forget what is cached, when transfers have let go of it."""

        async def reset() -> bool:
            deadline_s = time.monotonic() + limit_s
            while not await self._engine.reset_prefix_cache(reset_connector=True):
                if time.monotonic() > deadline_s:
                    return False
                await asyncio.sleep(0.05)
            return True

        return bool(self._finish(reset()))

    def meet_async(self, verb: str, argument: Any = None) -> None:
        self._finish(self._engine.collective_rpc("meet", args=(verb, argument)))

    def sleep_async(
        self,
        level: int,
        mode: str = "abort",
        prompt: Sequence[int] = (),
        asked: Mapping[str, Any] | None = None,
        before_s: float = 0.0,
    ) -> list[str]:
        """Sleep and wake; say what each raised: the sleep, the wake, and a request of before.

        Args:
            before_s: how long the request has had; one that has ended may be frozen still.
        """

        async def sleep() -> list[str]:
            sent = asyncio.create_task(self._send(prompt or [1], asked))
            await asyncio.sleep(before_s)
            slept = await _raised(self._engine.sleep(level=level, mode=mode))
            woke = await _raised(self._engine.wake_up())
            return [slept, woke, await _raised(sent)]

        found: list[str] = self._finish(sleep())
        return found

    async def _send(
        self, prompt: Sequence[int], asked: Mapping[str, Any] | None = None, tokens: int = TOKENS
    ) -> Any:
        from vllm import SamplingParams

        AsyncSessionSteps._sent += 1
        parameters = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": {"thaw": asked}} if asked else None,
        )
        request = {"prompt_token_ids": list(prompt)}, parameters, f"sent {self._sent}"
        outputs = [each async for each in self._engine.generate(*request)]
        return {
            "tokens": list(outputs[-1].outputs[0].token_ids),
            "cached": outputs[-1].num_cached_tokens,
            "said": (outputs[-1].kv_transfer_params or {}).get("thaw", {}),
        }

    def _finish(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self._run(steps)  # type: ignore[attr-defined]

    def over_http(
        self, engine: Mapping[str, Any], connector: Mapping[str, Any], calls: Sequence[Any]
    ) -> dict[str, Any]:
        """Start a server, complete prompts, and read its metrics.

        Args:
            calls: prompts, each with what it asks of sessions, or with the body's very text; a
                number waits for so many seconds.
        """
        options = [
            part
            for name, value in engine.items()
            for part in ([f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)]))
        ]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enable-prompt-tokens-details"]
        command += [*options, "--kv-transfer-config", json.dumps(connector)]
        server = subprocess.Popen(command)
        try:
            _wait_for(server, port)
            answers = [_call(port, each) for each in calls]
            with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                lines = response.read().decode().splitlines()
            found = [each for each in lines if "thaw_session" in each and each[0] != "#"]
            return {"answers": answers, "metrics": found, "lives": server.poll() is None}
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


async def _raised(steps: Awaitable[Any]) -> str:
    try:
        await asyncio.wait_for(steps, _READY_S)
    except Exception as error:  # noqa: BLE001 - the tests look at it
        return f"{type(error).__name__}: {error}"
    return ""


def _call(port: int, call: Any) -> Any:
    if isinstance(call, int | float):
        time.sleep(call)
        return None
    prompt, asked = call
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"detokenize": False, "return_token_ids": True}
    if isinstance(asked, str):
        data = json.dumps(body | {"kv_transfer_params": "HERE"}).replace('"HERE"', asked).encode()
    else:
        data = json.dumps(body | ({"kv_transfer_params": asked} if asked else {})).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/completions", data)
    request.add_header("Content-Type", "application/json")
    try:
        with urlopen(request, timeout=60) as response:
            said = json.load(response)
    except HTTPError as error:
        return {"status": error.code, "error": error.read().decode()}
    details = (said.get("usage") or {}).get("prompt_tokens_details") or {}
    return {
        "status": 200,
        "tokens": said["choices"][0]["token_ids"],
        "cached": details.get("cached_tokens") or 0,
        "said": (said.get("kv_transfer_params") or {}).get("thaw", {}),
    }


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + _READY_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start: its status is {server.returncode}")


def _said(report: Any) -> dict[str, Any]:
    return asdict(report) | {"path": str(report.path)}
