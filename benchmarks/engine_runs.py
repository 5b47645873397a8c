"""Starts of vLLM engines in one process, each measured and checked by what it decodes."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from bench_case import Times
from gauges import Sampler
from plain import write_plainly

Row: TypeAlias = dict[str, Any]
ENGINE: dict[str, Any] = {
    "enforce_eager": True,
    "skip_tokenizer_init": True,
    "max_model_len": 1024,
    "dtype": "bfloat16",
    "gpu_memory_utilization": 0.5,
    "kv_cache_memory_bytes": 1 << 30,
}
"""No graphs are captured and no KV cache is sized: both take as long with every loader."""

_PROMPT = list(range(7, 107))
_TOKENS = 32


@dataclass(frozen=True)
class Places:
    """Where a shape's files are."""

    model: Path
    snapshot: Path
    on_disk: Path | None
    sharded: Path

    def ways(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Return for each way of loading the model's folder and the arguments of `LLM`."""
        found = {
            "dummy": (self.model, {"load_format": "dummy"}),
            "default": (self.model, {}),
            "thaw/tmpfs": (self.model, thaw_from(self.snapshot)),
        }
        if self.on_disk:
            found["thaw/page-cache"] = (self.model, thaw_from(self.on_disk))
        return found | {
            "fastsafetensors": (self.model, {"load_format": "fastsafetensors"}),
            "instanttensor": (self.model, {"load_format": "instanttensor"}),
            "runai_streamer": (self.model, {"load_format": "runai_streamer"}),
            "sharded_state": (self.sharded, {"load_format": "sharded_state"}),
        }


def thaw_from(snapshot: Path) -> dict[str, Any]:
    """Return the arguments of `LLM` that load a snapshot."""
    return {"load_format": "thaw", "model_loader_extra_config": {"snapshot": str(snapshot)}}


class Bench:
    """Starts engines one after the other; what they decode must be what the first one did."""

    def __init__(
        self, shape: str, places: Places, engine: Mapping[str, Any], device: torch.device
    ) -> None:
        self.shape, self.places, self.device = shape, places, device
        self._engine = engine
        self.rows: list[Row] = []
        self._expected: str | None = None

    def start(self, way: str, *, called: str = "", memory: bool = False) -> None:
        """Start an engine and stop it again."""
        with self.engine(way, called=called, memory=memory):
            pass

    @contextmanager
    def engine(self, way: str, *, called: str = "", memory: bool = False) -> Iterator[Any]:
        """Start an engine, add a row about it, and stop it at the end of the block.

        Args:
            called: how the row is called, where not like the way.
            memory: whether memory is sampled, which costs time.
        """
        from vllm import LLM

        model, arguments = self.places.ways()[way]
        row: Row = {"shape": self.shape, "way": called or way}
        self.rows.append(row)
        llm = None
        try:
            with _observed(row, self.device, memory=memory):
                began = time.perf_counter()
                llm = LLM(model=str(model), **self._engine, **arguments)
                row["engine_s"] = time.perf_counter() - began
            if way != "dummy":
                row["equal"] = self.is_equal(llm)
            yield llm
        except Exception as error:  # noqa: BLE001 - the other ways go on
            traceback.print_exc()
            row["error"] = f"{type(error).__name__}: {error}"[:500]
            if llm is None:
                yield None
        finally:
            _stop(llm)

    def is_equal(self, llm: Any) -> bool:
        """Decode greedily, and compare token ids and logprobs with those of the first engine."""
        said = _decoded(llm)
        self._expected = self._expected or said
        return said == self._expected

    def freeze(self, llm: Any, times: int) -> None:
        """Freeze a live engine to tmpfs, where there is a disk with plain writes between."""
        import thaw_vllm

        plain: Times = {}
        row: Row = {"shape": self.shape, "way": "freeze/tmpfs", "samples_s": [], "plain_s": plain}
        # Each write comes right after a file as large was removed: memory that a virtual machine
        # has not touched, or not for seconds, is far slower.
        nbytes = sum(file.stat().st_size for file in self.places.model.iterdir())
        if self.places.on_disk:
            write_plainly(self.places.snapshot.parent, self.device, nbytes, "buffered", {})
        for _ in range(times):
            self.places.snapshot.unlink(missing_ok=True)
            if self.places.on_disk:
                write_plainly(self.places.snapshot.parent, self.device, nbytes, "buffered", plain)
            report = thaw_vllm.freeze_engine(llm, self.places.snapshot)
            row["samples_s"].append(report.elapsed_s)
            row |= {"nbytes": report.nbytes, "tensors": report.tensors}
        self.rows.append(row)

    def hot(self, llm: Any, way: str, path: Path, times: int, *, pinned: bool) -> None:
        """Restore into a live engine, again and again."""
        import thaw_vllm

        row: Row = {"shape": self.shape, "way": f"hot/{way}", "samples_s": [], "moving_s": []}
        if pinned:
            began = time.perf_counter()
            thaw_vllm.pin_engine(llm, path)
            row["pinning_s"] = time.perf_counter() - began
        for _ in range(times):
            began = time.perf_counter()
            report = thaw_vllm.restore_engine(llm, path)
            row["samples_s"].append(time.perf_counter() - began)
            row["moving_s"].append(report.elapsed_s)
            row["nbytes"] = report.nbytes
        if pinned:
            thaw_vllm.unpin_engine(llm, path)
        row["equal"] = self.is_equal(llm)
        row["differences"] = list(thaw_vllm.verify(llm, path).differences)
        self.rows.append(row)

    def save_sharded(self, llm: Any) -> None:
        """Write vLLM's own format of a rank's weights."""
        folder = self.places.sharded
        folder.mkdir()
        for file in self.places.model.glob("*.json"):
            if "index" not in file.name:
                shutil.copy(file, folder)
        llm.llm_engine.engine_core.save_sharded_state(path=str(folder))


@contextmanager
def _observed(row: Row, device: torch.device, *, memory: bool) -> Iterator[None]:
    """Note how long the worker loads its model, what the loader says, and the memory used."""
    from vllm.v1.worker.gpu_worker import Worker

    original, listener = Worker.load_model, _Listener(row)
    logger = logging.getLogger("vllm")

    def load_model(worker: Any, *args: Any, **kwargs: Any) -> Any:
        sampler = Sampler(device) if memory else None
        before = _allocated(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        if sampler:
            with sampler:
                answer = original(worker, *args, **kwargs)
        else:
            answer = original(worker, *args, **kwargs)
        row["load_model_s"] = time.perf_counter() - began
        kept = _allocated(device) - before
        row["kept_nbytes"] = kept
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) - before
            row["torch_extra_nbytes"] = peak - kept
        if sampler:
            row["sampled_extra"] = sampler.extra(kept, 0)
        return answer

    Worker.load_model = load_model
    logger.addHandler(listener)
    try:
        yield
    finally:
        Worker.load_model = original
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    """Hears how long the loader took for the weights alone; vLLM's loaders and thaw's say it."""

    def __init__(self, row: Row) -> None:
        super().__init__(logging.INFO)
        self._row = row

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args
        if not isinstance(arguments, tuple):
            return
        if str(record.msg).startswith("Loading weights took"):
            self._row["weights_s"] = arguments[0]
        elif str(record.msg).startswith("restored"):
            self._row["weights_s"] = arguments[2]


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _decoded(llm: Any) -> str:
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0, max_tokens=_TOKENS, ignore_eos=True, detokenize=False, logprobs=1
    )
    prompts = [{"prompt_token_ids": _PROMPT}]
    # Not from the prefix cache, whose kernels are others.
    llm.reset_prefix_cache()
    found = llm.generate(prompts, parameters, use_tqdm=False)[0].outputs[0]
    steps = [sorted((key, said.logprob) for key, said in step.items()) for step in found.logprobs]
    return hashlib.sha256(json.dumps([list(found.token_ids), steps]).encode()).hexdigest()


def _stop(llm: Any) -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    if llm is not None:
        llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    gc.collect()


def rounds(bench: Bench, ways: Sequence[str], count: int) -> None:
    """Start engines of every way, in turn, so that a change of the machine meets all of them."""
    for _ in range(count):
        for way in ways:
            if not any(row["way"] == way and "error" in row for row in bench.rows):
                bench.start(way)
