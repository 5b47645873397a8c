"""The fingerprint of weights: as the specification has it, of their bits and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import thaw.vllm.weights.fingerprint as module
from thaw.errors import MismatchError
from thaw.vllm.agent import Agent
from thaw.vllm.weights.fingerprint import fingerprint, fingerprint_of, noting_fingerprint

_TABLE = []
for _index in range(256):
    _value = _index
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def expected(said: Mapping[str, tuple[str, list[int], list[bytes]]]) -> str:
    """Follow the text of the specification: name, dtype, shape, and the pieces' bytes."""
    lines = [
        json.dumps(
            [name, dtype, shape, [crc32c(each) for each in pieces]],
            separators=(",", ":"),
            ensure_ascii=False,
        )
        + "\n"
        for name, (dtype, shape, pieces) in sorted(said.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def weights() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(5)
    return {
        "b.weight": torch.randn(6, 4, generator=made).to(torch.bfloat16),
        "a.weight": torch.randn(3, 5, generator=made),
        "é": torch.arange(7, dtype=torch.int64),
    }


def test_it_is_what_the_specification_says() -> None:
    made = weights()
    said = {
        "b.weight": ("bfloat16", [6, 4], [raw(made["b.weight"])]),
        "a.weight": ("float32", [3, 5], [raw(made["a.weight"])]),
        "é": ("int64", [7], [raw(made["é"])]),
    }
    assert fingerprint(made) == expected(said)


def test_names_sort_by_code_points() -> None:
    names = ["\U0001f600", "\uff5e", "z", "Z", "a.10", "a.9"]
    made = {name: torch.tensor([index]) for index, name in enumerate(names)}
    said = {name: ("int64", [1], [raw(each)]) for name, each in made.items()}
    assert fingerprint(made) == expected(said)


def test_large_tensors_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.PIECE_NBYTES == 4 << 20
    monkeypatch.setattr(module, "PIECE_NBYTES", 64)
    tensor = torch.arange(50, dtype=torch.int32)
    data = raw(tensor)
    pieces = [data[start : start + 64] for start in range(0, 200, 64)]
    assert fingerprint({"a": tensor}) == expected({"a": ("int32", [50], pieces)})


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "é"])
def test_any_bit_changes_it(name: str) -> None:
    before = fingerprint(weights())
    seen = {before}
    for byte in range(weights()[name].nbytes):
        made = weights()
        made[name].view(torch.uint8).view(-1)[byte] ^= 1 << byte % 8
        seen.add(fingerprint(made))
    assert len(seen) == weights()[name].nbytes + 1


def test_names_dtypes_and_shapes_change_it() -> None:
    made = weights()
    one = made["b.weight"]
    others: list[dict[str, torch.Tensor]] = [
        {**made, "b.weight": one.view(torch.float16)},
        {**made, "b.weight": one.view(4, 6)},
        {**made, "b.weight": one.view(24)},
        {**{name: each for name, each in made.items() if name != "b.weight"}, "b.bias": one},
        {**made, "c": torch.zeros(0)},
        {**made, "a.weight": made["a.weight"].neg()},
        {name: each for name, each in made.items() if name != "é"},
    ]
    assert len({fingerprint(each) for each in (made, *others)}) == len(others) + 1


def test_the_bytes_of_one_tensor_are_not_taken_for_those_of_another() -> None:
    made = weights()
    same = {"a": made["a.weight"], "b": made["a.weight"] + 1}
    other = {"a": made["a.weight"] + 1, "b": made["a.weight"]}
    assert fingerprint(same) != fingerprint(other)


def test_where_the_bits_lie_does_not_matter() -> None:
    made = weights()
    wide = torch.zeros(6, 9, dtype=torch.bfloat16)
    wide[:, 2:6] = made["b.weight"]
    turned = made["a.weight"].t().contiguous().t()
    assert not turned.is_contiguous()
    moved = {"é": made["é"].clone(), "a.weight": turned, "b.weight": wide[:, 2:6]}
    assert fingerprint(moved) == fingerprint(made)


def test_tied_tensors_are_like_equal_ones() -> None:
    one = torch.randn(8, 8)
    tied, apart = {"a": one, "b": one, "c": one[:4]}, {"a": one, "b": one.clone()}
    assert fingerprint(tied) == fingerprint({**apart, "c": one[:4].clone()})


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "uint8", "bool", "float16", "float64"]
)
def test_dtypes_are_named_as_in_files(dtype: str) -> None:
    tensor = torch.arange(32, dtype=torch.uint8).remainder(2).view(getattr(torch, dtype))
    found = fingerprint({"a": tensor})
    assert found == expected({"a": (dtype, list(tensor.shape), [raw(tensor)])})


def test_empty_tensors_and_numbers_have_their_place() -> None:
    made = {"empty": torch.zeros(0, 4), "number": torch.tensor(3, dtype=torch.int32)}
    said = {
        "empty": ("float32", [0, 4], []),
        "number": ("int32", [], [raw(made["number"].view(1))]),
    }
    assert fingerprint(made) == expected(said)
    assert fingerprint({}) == hashlib.sha256(b"").hexdigest()


def test_the_payload_of_a_nan_counts() -> None:
    quiet = torch.tensor([0x7FC00000], dtype=torch.int32).view(torch.float32)
    other = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert fingerprint({"a": quiet}) != fingerprint({"a": other})


def test_adapters_are_left_out_and_names_are_as_without_them() -> None:
    made = nn.Module()
    made.layer = nn.Module()
    made.layer.base_layer = nn.Linear(4, 4, bias=False)
    made.layer.register_buffer("lora_a_stacked", torch.randn(2, 2))
    plain = nn.Module()
    plain.layer = nn.Linear(4, 4, bias=False)
    plain.layer.weight.data.copy_(made.layer.base_layer.weight.data)
    assert fingerprint_of(made) == fingerprint_of(plain)


class Loader:
    def load_weights(self, model: nn.Module) -> None:
        nn.init.normal_(model.weight)


def config() -> Any:
    return SimpleNamespace(
        kv_transfer_config=object(), device_config=SimpleNamespace(device_type="cpu")
    )


def test_what_a_library_took_is_known_from_before() -> None:
    model, loader = nn.Linear(4, 4, bias=False), Loader()
    with noting_fingerprint(loader, config()):
        loader.load_weights(model)
    whole = fingerprint_of(model)
    model.weight.data = torch.zeros(0)  # a library has it
    assert fingerprint_of(model) == whole


def test_what_was_known_is_forgotten_when_weights_change() -> None:
    model, loader = nn.Linear(4, 4, bias=False), Loader()
    with noting_fingerprint(loader, config()):
        loader.load_weights(model)
    model.weight.data = torch.zeros(0)
    Agent.of(SimpleNamespace(get_model=lambda: model)).weights_change()
    with pytest.raises(MismatchError, match="where they cannot be digested"):
        fingerprint_of(model)
