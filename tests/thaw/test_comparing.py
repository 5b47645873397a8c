"""Diff: bytes, and how tensors lie and share memory."""

from pathlib import Path

import torch

import thaw


def diff(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], folder: Path) -> list[str]:
    thaw.freeze(one, folder / "a.thaw")
    thaw.freeze(two, folder / "b.thaw")
    found = thaw.diff(folder / "a.thaw", folder / "b.thaw")
    assert found.identical == (not found.changed)
    return [f"{each.name} {each.what}: {each.a}; {each.b}" for each in found.changed]


def test_a_tie_on_one_side_alone_is_a_difference(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    tied = {"a": w, "b": w, "c": w + 1}
    apart = {"a": w, "b": w.clone(), "c": w + 1}
    assert diff(tied, apart, tmp_path) == [
        "a aliasing: shares memory with 'b'; shares memory with none",
        "b aliasing: shares memory with 'a'; shares memory with none",
    ]
    assert diff(tied, dict(tied), tmp_path) == []
    assert diff(apart, dict(reversed(apart.items())), tmp_path) == []


def test_ties_of_others_and_overlaps_elsewhere_are_differences(tmp_path: Path) -> None:
    w, v = torch.arange(4.0), torch.arange(4.0)
    assert diff({"a": w, "b": w, "c": v}, {"a": w, "b": v, "c": w}, tmp_path) == [
        "a aliasing: shares memory with 'b'; shares memory with 'c'",
        "b aliasing: shares memory with 'a'; shares memory with none",
        "c aliasing: shares memory with none; shares memory with 'a'",
    ]
    zeros = torch.zeros(9)
    here, there = ({"a": zeros[:4], "b": zeros[i : i + 4]} for i in (1, 2))
    assert diff(here, there, tmp_path) == [
        "b aliasing: shares memory with 'a', from byte 4; shares memory with 'a', from byte 8"
    ]


def test_ties_of_names_that_one_side_lacks_are_none(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    thaw.freeze({"a": w, "b": w}, tmp_path / "a.thaw")
    thaw.freeze({"a": w}, tmp_path / "b.thaw")
    found = thaw.diff(tmp_path / "a.thaw", tmp_path / "b.thaw")
    assert (found.only_in_a, found.changed) == (("b",), ())


def test_strides_are_compared(tmp_path: Path) -> None:
    w = torch.arange(6.0).view(2, 3)
    assert diff({"w": w}, {"w": w.T.contiguous().T}, tmp_path) == ["w stride: [3, 1]; [1, 2]"]
    wide = {"w": w[:1], "e": torch.zeros(0, 3)}
    assert (
        diff(wide, {"w": w[:1].as_strided((1, 3), (7, 1)), "e": torch.zeros(3, 0).T}, tmp_path)
        == []
    )


def test_a_format_that_cannot_say_them_is_compared_by_its_bytes(tmp_path: Path) -> None:
    w = torch.arange(6.0).view(2, 3)
    thaw.freeze({"a": w.T, "b": w}, tmp_path / "a.thaw")
    thaw.convert(tmp_path / "a.thaw", tmp_path / "a.safetensors")
    assert thaw.diff(tmp_path / "a.thaw", tmp_path / "a.safetensors").identical
