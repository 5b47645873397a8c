"""What `drive.py` does with sessions of engines, and to the files of sessions."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

FOLDER = "sessions"
TOKENS = 8


class SessionSteps:
    """For an `LLM`; `_llm` is that of `drive.Steps`."""

    _llm: Any

    def serve_sessions(self, model: str, folder: str = FOLDER, **options: Any) -> None:
        """Start an engine with the connector.

        Args:
            options: `extra` is of the connector, what is left of vLLM.
        """
        from thaw.vllm.offline import connector_to

        config = connector_to(folder)
        config["kv_connector_extra_config"] |= options.pop("extra", {})
        engine = {"kv_transfer_config": config, "disable_log_stats": False}
        self.start(model=model, **(engine | options))  # type: ignore[attr-defined]

    def request(
        self,
        prompts: Sequence[Sequence[int]],
        asked: Mapping[str, Any] | None = None,
        salt: str = "",
        **sampling: Any,
    ) -> list[Any]:
        """Decode prompts at once, greedily: tokens, logprobs, what was cached and what is said."""
        from vllm import SamplingParams

        extra = {"kv_transfer_params": {"thaw": asked}} if asked else None
        known = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "detokenize": False}
        parameters = SamplingParams(**(known | {"logprobs": 1, "extra_args": extra} | sampling))
        made = [
            {"prompt_token_ids": list(each)} | ({"cache_salt": salt} if salt else {})
            for each in prompts
        ]
        return [_answer(each) for each in self._llm.generate(made, parameters, use_tqdm=False)]

    def request_in_turn(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """Decode prompts one by one: what shares a batch changes the last bits."""
        return [each for prompt in prompts for each in self.request([prompt], **options)]

    def freeze_prompt(self, prompt: Sequence[int], path: str, **options: Any) -> Any:
        import thaw_vllm

        return _said(thaw_vllm.freeze_session(self._llm, prompt, path, **options))

    def wait_for_other(self, path: str) -> None:
        """Leave a file in a folder, and wait until another process has left one, too."""
        folder, deadline_s = Path(path), time.monotonic() + 120
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no other process came to {path}")
            time.sleep(0.01)

    def freeze_for(self, seconds: float, prompt: Sequence[int], path: str) -> int:
        """Freeze to one name again and again, each time with a whole file there; count them."""
        import thaw

        count, deadline_s = 0, time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.freeze_prompt(prompt, path)
            thaw.verify(path)
            count += 1
        return count

    def freeze_answer(self, prompt: Sequence[int], path: str) -> Any:
        """Freeze a prompt with its answer; return both as token ids, and the report."""
        from vllm import SamplingParams

        import thaw_vllm

        parameters = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, detokenize=False)
        (output,) = self._llm.generate(
            [{"prompt_token_ids": list(prompt)}], parameters, use_tqdm=False
        )
        report = _said(thaw_vllm.freeze_session(self._llm, output, path))
        return {"tokens": [*prompt, *output.outputs[0].token_ids], "report": report}

    def restore_file(self, path: str, **options: Any) -> Any:
        import thaw_vllm

        return _said(thaw_vllm.restore_session(self._llm, path, **options))

    def settle(self) -> None:
        """Have the engine take note of transfers that have ended."""
        from thaw.vllm.adapters import engine_of

        engine = engine_of(self._llm)
        engine.run(engine.settle())
        time.sleep(0.3)

    def reset(self, connector: bool = True) -> bool:
        """Forget what is cached, when freezes have let go of it."""
        deadline_s = time.monotonic() + 10
        while not (done := self._llm.reset_prefix_cache(reset_connector=connector)):
            if time.monotonic() > deadline_s:
                break
            self.settle()
        return bool(done)

    def counted(self) -> dict[str, float]:
        """Return the counters of sessions, without what is common to their names."""
        from prometheus_client import REGISTRY

        found: dict[str, float] = {}
        for metric in REGISTRY.collect():
            for sample in metric.samples if metric.name.startswith("vllm:thaw_session_") else ():
                if sample.name.endswith("_total"):
                    name = sample.name.removeprefix("vllm:thaw_session_").removesuffix("_total")
                    name += f" {reason}" if (reason := sample.labels.get("reason")) else ""
                    found[name] = found.get(name, 0) + sample.value
        return found

    def fault(self, verb: str, *args: Any) -> None:
        """Have workers meet a fault; see `session_faults`."""
        self._llm.collective_rpc("meet", args=(verb, *args))

    def meet(self, verb: str, argument: Any = None) -> None:
        self.fault(verb, argument)

    def reload(self, path: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": os.path.abspath(path)})

    def sleep_and_wake(self, level: int) -> None:
        self._llm.sleep(level=level)
        self._llm.wake_up()

    def one_bit(self, model: str, path: str) -> None:
        """Copy a model, with the lowest bit of its last weight turned over."""
        shutil.copytree(model, path)
        file = next(iter(sorted(Path(path).glob("*.safetensors"))))
        data = bytearray(file.read_bytes())
        data[-2] ^= 1
        file.write_bytes(data)

    def mount_small(self, path: str, nbytes: int) -> None:
        """Put an empty file system of so many bytes in a folder's place; root alone may."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={nbytes}".encode()):
            raise OSError(ctypes.get_errno(), "no mount allowed here", path)

    def unmount(self, path: str) -> list[str]:
        """Have the folder again; return what was in its place."""
        found = sorted(os.listdir(path))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(path.encode(), 2):
            raise OSError(ctypes.get_errno(), "not unmounted", path)
        return found

    def damage(self, path: str, at: float = 0.5) -> None:
        """Turn a bit of a file over; of a folder's second rank, if there are several."""
        file = Path(path) / "rank-00001-of-00002.thaw" if Path(path).is_dir() else Path(path)
        with file.open("r+b") as opened:
            place = int(file.stat().st_size * at)
            opened.seek(place)
            (byte,) = opened.read(1)
            opened.seek(place)
            opened.write(bytes([byte ^ 1]))

    def cut(self, path: str) -> None:
        os.truncate(path, os.path.getsize(path) // 2)

    def copy_session(self, source: str, path: str) -> None:
        shutil.copy(source, path)

    def remove_session(self, path: str) -> None:
        os.unlink(path)

    def listed(self, folder: str = FOLDER) -> list[str]:
        return sorted(os.listdir(folder))

    def show(self, folder: str = FOLDER) -> list[Any]:
        """List the sessions of a folder: name, tokens, error."""
        from thaw.vllm.kv.folder import Folder

        return [[each.name, each.tokens, each.error] for each in Folder(folder).scan()]


def _answer(output: Any) -> dict[str, Any]:
    one = output.outputs[0]
    return {
        "tokens": list(one.token_ids),
        "logprobs": [
            sorted((key, said.logprob) for key, said in step.items()) for step in one.logprobs or ()
        ],
        "cached": output.num_cached_tokens,
        "said": (output.kv_transfer_params or {}).get("thaw", {}),
    }


def _said(report: Any) -> dict[str, Any]:
    return asdict(report) | {"path": str(report.path)}
