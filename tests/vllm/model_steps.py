"""What `drive.py` does with sessions of a `vllm.LLM`: requests that tell what was cached."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

ASKED_TOKENS = 8


class ModelSteps:
    _llm: Any

    def save_for_sessions(self, name: str) -> None:
        """Write one of the models whose sessions are compared."""
        import session_cases

        session_cases.save(name, Path(name))

    def ask(
        self,
        prompts: Sequence[Sequence[int]],
        thaw: Mapping[str, Any] | None = None,
        adapter: str = "",
        together: bool = False,
    ) -> list[dict[str, Any]]:
        """Decode greedily: tokens, the logprobs of each, and how many of a prompt were cached.

        Args:
            adapter: the folder of one, whose name is that of its last part.
            together: whether all are given at once; else one by one, so that nothing else shares a
                batch with any.
        """
        from vllm import SamplingParams

        parameters = SamplingParams(
            temperature=0,
            max_tokens=ASKED_TOKENS,
            ignore_eos=True,
            detokenize=False,
            logprobs=3,
            extra_args={"kv_transfer_params": {"thaw": thaw}} if thaw else None,
        )
        made = [{"prompt_token_ids": list(each)} for each in prompts]
        outputs = [
            output
            for batch in ([made] if together else [[each] for each in made])
            for output in self._llm.generate(
                batch, parameters, use_tqdm=False, lora_request=_adapter(adapter)
            )
        ]
        return [_answer(each) for each in outputs]

    def forget(self, connector: bool = False) -> bool:
        """Drop the prefix cache.

        Args:
            connector: whether that of the connector as well.
        """
        return bool(self._llm.reset_prefix_cache(reset_connector=connector))

    def freeze_session(self, prompt: Sequence[int], path: str, adapter: str = "") -> dict[str, Any]:
        import thaw_vllm

        report = thaw_vllm.freeze_session(
            self._llm, list(prompt), path, lora_request=_adapter(adapter)
        )
        return asdict(report) | {"path": str(report.path)}

    def restore_session(self, path: str, adapter: str = "") -> dict[str, Any]:
        import thaw_vllm

        report = thaw_vllm.restore_session(self._llm, path, lora_request=_adapter(adapter))
        return asdict(report) | {"path": str(report.path)}

    def damage_session(self, source: str, path: str, file: str = "") -> None:
        """Put in the place of a session another, with a bit of a block in its middle flipped."""
        copy = Path(f"{path}.copy")
        (shutil.copytree if file else shutil.copyfile)(source, copy)
        damaged = copy / file
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        if file:
            shutil.rmtree(path)
        copy.rename(path)

    def save_adapter(self, model: str, folder: str, seed: int = 0) -> None:
        """Write a LoRA adapter with random weights for the attention of a model like Llama."""
        import lora_files

        lora_files.save(Path(model), Path(folder), seed)

    def keep_prefix_caching(self) -> None:
        """Have vLLM leave prefix caching on for MLA on a CPU.

        Its reference kernel computes the tokens behind a prefix only where that is a single one.
        """
        from vllm.platforms.cpu import CpuPlatform

        check = CpuPlatform.check_and_update_config.__func__

        def checking(platform: Any, vllm_config: Any) -> None:
            wanted = vllm_config.cache_config.enable_prefix_caching
            check(platform, vllm_config)
            vllm_config.cache_config.enable_prefix_caching = wanted

        CpuPlatform.check_and_update_config = classmethod(checking)

    def hybrid(self) -> bool:
        """Say whether vLLM deals with layers of several kinds in groups of their own."""
        config = self._llm.llm_engine.vllm_config.scheduler_config
        return not config.disable_hybrid_kv_cache_manager


def _answer(output: Any) -> dict[str, Any]:
    answer = output.outputs[0]
    return {
        "tokens": list(answer.token_ids),
        "logprobs": [
            sorted((key, said.logprob) for key, said in step.items()) for step in answer.logprobs
        ],
        "cached": output.num_cached_tokens,
        "said": (output.kv_transfer_params or {}).get("thaw"),
    }


def _adapter(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    # An adapter that was loaded stays under its number, whatever the folder.
    number = 1 + crc32(folder.encode()) % 1000
    return LoRARequest(Path(folder).name, number, folder) if folder else None
