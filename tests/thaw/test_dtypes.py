"""Element types are words, and torch's for who asks."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import thaw_safetensors
import torch
from thaw_format import DTYPES, Layout, TensorSpec, dtype_name, extent_nbytes, layout_tensors
from thaw_format.dtypes import ITEMSIZES

import thaw

EVERY = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
FOREIGN = sorted(set(EVERY.values()) - set(DTYPES.values()), key=str)


@pytest.mark.parametrize("name", ITEMSIZES)
def test_a_word_says_what_torch_says(name: str) -> None:
    dtype = DTYPES[name]
    assert dtype is getattr(torch, name)
    assert dtype_name(dtype) == name
    assert ITEMSIZES[name] == dtype.itemsize
    spec = TensorSpec(name, (3,), (1,), 0, 0)
    assert spec.dtype is dtype
    assert (spec.itemsize, spec.nbytes, spec.extent) == (
        dtype.itemsize,
        *(2 * [3 * dtype.itemsize]),
    )


@pytest.mark.parametrize("dtype", EVERY.values(), ids=str)
def test_a_spec_is_made_from_a_dtype_of_torch_s_as_well(dtype: torch.dtype) -> None:
    spec = TensorSpec(dtype, (2,), (1,), 0, 0)  # type: ignore[arg-type]
    assert spec.dtype is dtype
    assert spec == TensorSpec(spec.dtype_name, (2,), (1,), 0, 0)
    assert spec.nbytes == 2 * dtype.itemsize
    assert hash(spec) == hash(copy.deepcopy(spec))
    assert pickle.loads(pickle.dumps(spec)) == replace(spec, offset=0) == spec


@pytest.mark.parametrize("dtype", FOREIGN, ids=str)
def test_a_dtype_that_the_format_lacks_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"{dtype} cannot be stored"):
        dtype_name(dtype)


def test_a_word_that_is_no_dtype_is_an_error_on_a_look() -> None:
    spec = TensorSpec("float33", (2,), (1,), 0, 0)
    with pytest.raises(ValueError, match="'float33' is no dtype of this torch"):
        spec.dtype  # noqa: B018
    with pytest.raises(ValueError, match="'float33' is no dtype of this torch"):
        spec.nbytes  # noqa: B018


def test_live_tensors_have_the_words() -> None:
    tensors = {name: torch.empty(2, dtype=dtype) for name, dtype in DTYPES.items()}
    layout: Layout = layout_tensors(tensors)
    assert all(spec.dtype_name == name for name, spec in layout.tensors.items())
    assert {n: extent_nbytes(t) for n, t in tensors.items()} == {
        n: 2 * size for n, size in ITEMSIZES.items()
    }


def test_tied_names_share_a_layout_across_formats(tmp_path: Path) -> None:
    w = torch.ones(3, dtype=torch.bfloat16)
    thaw.freeze({"a": w, "b": w}, tmp_path / "x.thaw")
    thaw_safetensors.write_checkpoint(tmp_path / "x.safetensors", {"a": w})
    with thaw.open(tmp_path / "x.thaw") as one, thaw.open(tmp_path / "x.safetensors") as other:
        assert one.tensors["a"].layout == one.tensors["b"].layout
        assert {each.dtype for each in (*one.tensors.values(), *other.tensors.values())} == {
            torch.bfloat16
        }
        assert other.tensors["a"].dtype_name == "bfloat16"


@pytest.mark.parametrize("name", thaw_safetensors.DTYPES)
def test_the_names_of_safetensors_are_torch_s_dtypes(name: str) -> None:
    dtype = thaw_safetensors.DTYPES[name]
    assert dtype_name(dtype) in ITEMSIZES
