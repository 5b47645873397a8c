"""The parts of the line-rate benchmark that decide what is true."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CPU = torch.device("cpu")


def test_the_full_size_is_that_of_llama() -> None:
    from llama import FULL_NBYTES, llama, total_nbytes

    shapes = llama()
    assert len(shapes) == 291
    assert shapes["model.embed_tokens.weight"] == (128_256, 4096)
    assert shapes["model.layers.31.self_attn.v_proj.weight"] == (1024, 4096)
    assert total_nbytes(shapes) == FULL_NBYTES


def test_smaller_sizes_keep_the_count() -> None:
    from llama import llama, split, total_nbytes

    assert len(llama(2_000_000)) == 291
    assert total_nbytes(llama(50_000_000)) == pytest.approx(50_000_000, rel=0.1)
    assert len(split(300, 2_000_000)) == 300
    assert total_nbytes(split(300, 2_000_000)) == 2_000_000


@pytest.mark.parametrize("wrong", ["a bit", "a dtype", "a shape", "a name", "a swap"])
def test_problems_are_found(wrong: str) -> None:
    from llama import make, problems, split

    shapes = split(3, 300)
    tensors = make(shapes, CPU)
    assert problems(tensors, shapes, CPU) == []
    first, second, _ = tensors
    if wrong == "a bit":
        tensors[second].view(torch.int16)[1] ^= 1
    elif wrong == "a dtype":
        tensors[first] = tensors[first].view(torch.float16)
    elif wrong == "a shape":
        tensors[first] = tensors[first].view(1, -1)
    elif wrong == "a name":
        tensors["other"] = tensors.pop(first)
    else:
        tensors[first], tensors[second] = tensors[second], tensors[first]
    assert problems(tensors, shapes, CPU)


def test_tensors_hold_every_kind_of_bits() -> None:
    from llama import make

    tensor = make({"a": (1 << 20,)}, CPU)["a"]
    assert tensor.isnan().any()
    assert tensor.view(torch.int16).min() == -(1 << 15)
    assert tensor.view(torch.int16).max() == (1 << 15) - 1


def test_the_checkpoint_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from llama import llama, make, problems, shard_files, shard_views, write_checkpoint

    shapes = llama(1_000_000)
    write_checkpoint(make(shapes, CPU), tmp_path / "checkpoint")
    files = shard_files(tmp_path / "checkpoint")
    assert len(files) == 4
    loaded: dict[str, torch.Tensor] = {}
    viewed: dict[str, torch.Tensor] = {}
    for file in files:
        loaded |= load_file(file)
        whole = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        viewed |= shard_views(whole, file)
    assert problems(loaded, shapes, CPU) == []
    assert problems(viewed, shapes, CPU) == []


def test_sampled_memory_shows_what_was_taken() -> None:
    from gauges import Sampler

    nbytes = 64 << 20
    with Sampler(CPU) as sampler:
        taken = torch.ones(nbytes, dtype=torch.uint8)
    extra = sampler.extra(0, 0)
    assert extra["anonymous_nbytes"] >= 0.9 * taken.numel()
    assert sampler.extra(0, nbytes)["anonymous_nbytes"] == extra["anonymous_nbytes"] - nbytes


def test_the_page_cache_is_read_from_the_kernel(tmp_path: Path) -> None:
    from gauges import drop, resident_share, warm

    file = tmp_path / "file"
    file.write_bytes(bytes(4 << 20))
    warm(file)
    assert resident_share(file) == 1.0
    drop(file)
    assert resident_share(file) in (0.0, 1.0), "1.0 where the file lies in memory for good"


def test_case_names_are_distinct_and_files_are_made_before_they_are_read() -> None:
    from cases import Settings, catalogue
    from peers import PEERS

    settings = Settings("a", "b", "cpu", 2_000_000, 100, 2, 3)
    cases = list(catalogue(settings).values())
    assert len({case.name for case in cases}) == len(cases) > 60
    assert [case.name for case in cases if case.processes == 3] == [
        f"restore/{place}/native" for place in ("tmpfs", "pinned", "page-cache")
    ]
    order = [case.name for case in cases]
    for name, peer in PEERS.items():
        if peer.save and peer.file != "checkpoint":
            assert order.index(f"save/tmpfs/{name}") < order.index(f"peer/tmpfs/{name}/default")


def test_samples_of_several_processes_are_joined_once() -> None:
    from line_rate import _merged

    found = [{"what": "first", "samples_s": [s], "identical": s < 2.0} for s in (1.0, 2.0)]
    for _ in range(2):
        row, ceiling = _merged([*found, {"what": "write", "gbps": 1.0}])
        assert ceiling == {"what": "write", "gbps": 1.0}
        assert (row["samples_s"], row["identical"]) == ([1.0, 2.0], False)
