"""Elements are read in index order, whatever the strides and however small the pieces."""

from pathlib import Path

import pytest
import torch

import thaw
from thaw.cli import elements
from thaw.cli.elements import element_pieces


def views() -> dict[str, torch.Tensor]:
    grid = torch.arange(24 * 18, dtype=torch.int32).reshape(24, 18)
    return {
        "dense": grid.clone(),
        "transposed": grid.clone().T,
        "rows": grid.clone()[::3],
        "columns": grid.clone()[:, 2:15:4],
        "cube": grid.clone().reshape(4, 6, 18).permute(1, 2, 0),
        "padded": grid.clone().reshape(4, 6, 18)[:, :4, :9],
        "expanded": torch.arange(7).expand(50, 7),
        "expanded strided": torch.arange(40)[::4].expand(9, 10),
        "windows": torch.arange(60, dtype=torch.int16).as_strided((20, 5), (2, 3)),
        "one row": grid.clone()[4:5, ::2],
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(3, 0, 2),
        "wide": torch.randn(8, 6, dtype=torch.complex128).T,
        "bool": torch.arange(40).reshape(8, 5).T > 3,
        "fp8": torch.arange(40, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(8, 5).T,
        "fp4": torch.arange(40, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(8, 5).T,
    }


def expected(tensor: torch.Tensor) -> list[int]:
    if tensor.dtype.itemsize == 1:
        return tensor.view(torch.uint8).flatten().tolist()
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize(
    ("piece_nbytes", "window_nbytes"), [(4 << 20, 64 << 20), (64, 128), (32, 1), (16, 16)]
)
def test_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_nbytes: int, window_nbytes: int
) -> None:
    monkeypatch.setattr(elements, "PIECE_NBYTES", piece_nbytes)
    monkeypatch.setattr(elements, "WINDOW_NBYTES", window_nbytes)
    tensors = views()
    thaw.freeze(tensors, tmp_path / "x.thaw")
    with thaw.open(tmp_path / "x.thaw") as snapshot:
        for name, spec in snapshot.tensors.items():
            pieces = list(element_pieces(snapshot, spec))
            assert all(0 < piece.numel() <= piece_nbytes for piece in pieces), name
            assert [byte for piece in pieces for byte in piece.tolist()] == expected(tensors[name])


def test_rows_far_apart_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "WINDOW_NBYTES", 4096)
    thaw.freeze({"w": torch.arange(1 << 20).reshape(64, -1)[:, :32:2]}, tmp_path / "x.thaw")
    asked: list[int] = []
    read = elements._read

    def watched(snapshot: thaw.Snapshot, storage: int, start: int, nbytes: int) -> torch.Tensor:
        asked.append(nbytes)
        return read(snapshot, storage, start, nbytes)

    monkeypatch.setattr(elements, "_read", watched)
    with thaw.open(tmp_path / "x.thaw") as snapshot:
        pieces = list(element_pieces(snapshot, snapshot.tensors["w"]))
    assert sum(piece.numel() for piece in pieces) == 64 * 16 * 8
    assert max(asked) <= 4096
