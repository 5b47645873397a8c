"""Which files of a folder are the checkpoint, and what is said of the others."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from thaw_format import FormatError
from thaw_safetensors import METADATA_KEY, open_checkpoint

import thaw

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SERIES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def fill(folder: Path, files: dict[str, dict[str, float]]) -> Path:
    folder.mkdir(exist_ok=True)
    for file, tensors in files.items():
        save_file(
            {name: torch.tensor([float(value)]) for name, value in tensors.items()}, folder / file
        )
    return folder


def write_index(folder: Path, weight_map: dict[str, str], name: str = INDEX) -> Path:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / name


def values(path: Path) -> dict[str, float]:
    return {name: float(tensor) for name, tensor in thaw.restore(path).items()}


def refuse(path: Path, *words: str, code: str = "safetensors-ambiguous") -> None:
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    "other",
    ["consolidated", "adapter_model", "model.fp16", "consolidated-00001-of-00002", "pytorch_model"],
)
def test_the_usual_file_alone_is_the_checkpoint(tmp_path: Path, other: str) -> None:
    fill(tmp_path, {SINGLE: {"x": 1}, f"{other}.safetensors": {"x": 2, "y": 3}})
    assert values(tmp_path) == {"x": 1}


def test_pieces_of_another_checkpoint_beside_the_usual_file(tmp_path: Path) -> None:
    fill(tmp_path, {SINGLE: {"x": 1}, SERIES[0]: {"x": 2}, SERIES[1]: {"y": 2}})
    refuse(tmp_path, SINGLE, *SERIES, "Give the path of the file")
    assert values(tmp_path / SINGLE) == {"x": 1}


def test_files_that_nothing_holds_together(tmp_path: Path) -> None:
    fill(tmp_path, {f"{name}.safetensors": {name: 1} for name in "abcdef"})
    refuse(tmp_path, "a.safetensors", "b.safetensors", "and 2 more", "nor an index")
    assert values(tmp_path / "a.safetensors") == {"a": 1}


@pytest.mark.parametrize(
    "others",
    [("consolidated.safetensors",), ("other-00001-of-00001.safetensors",)],
)
def test_a_series_with_others(tmp_path: Path, others: tuple[str, ...]) -> None:
    fill(tmp_path, {SERIES[0]: {"x": 1}, SERIES[1]: {"y": 2}})
    assert values(tmp_path) == {"x": 1, "y": 2}
    fill(tmp_path, {other: {"z": 3} for other in others})
    refuse(tmp_path, SERIES[0], *others)


def test_two_series_of_one_name(tmp_path: Path) -> None:
    fill(tmp_path, {SERIES[0]: {"x": 1}, SERIES[1]: {"y": 2}})
    fill(tmp_path, {f"model-0000{n}-of-00003.safetensors": {"x": n} for n in (1, 2, 3)})
    refuse(tmp_path, SERIES[0])


@pytest.mark.parametrize("only", ["adapter_model.safetensors", "consolidated.safetensors"])
def test_a_single_file_is_taken(tmp_path: Path, only: str) -> None:
    fill(tmp_path, {only: {"x": 1}})
    assert values(tmp_path) == {"x": 1}


def test_an_index_and_a_whole_checkpoint_beside_it(tmp_path: Path) -> None:
    fill(tmp_path, {SERIES[0]: {"x": 0}, SINGLE: {"x": 1}})
    index = write_index(tmp_path, {"x": SERIES[0]})
    refuse(tmp_path, SINGLE, INDEX, "Give the path of the one that is meant")
    assert values(tmp_path / SINGLE) == {"x": 1}
    assert values(index) == {"x": 0}


def test_an_index_of_another_name_and_its_whole(tmp_path: Path) -> None:
    whole = "diffusion.safetensors"
    fill(tmp_path, {"diffusion-00001-of-00001.safetensors": {"x": 0}, whole: {"x": 1}})
    index = write_index(
        tmp_path, {"x": "diffusion-00001-of-00001.safetensors"}, f"{whole}.index.json"
    )
    refuse(tmp_path, whole, index.name)
    assert values(index) == {"x": 0}


def test_an_index_that_lists_the_usual_file(tmp_path: Path) -> None:
    fill(tmp_path, {SINGLE: {"x": 1}, "more.safetensors": {"y": 2}})
    write_index(tmp_path, {"x": SINGLE, "y": "more.safetensors"})
    assert values(tmp_path) == {"x": 1, "y": 2}


def test_an_index_whose_files_are_all_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As transformers leaves it when it saves a model as one file where it was several."""
    fill(tmp_path, {SINGLE: {"x": 1}})
    write_index(tmp_path, dict.fromkeys("xy", SERIES[0]))
    assert values(tmp_path) == {"x": 1}
    assert "none of the files that it lists is there" in caplog.text
    refuse(tmp_path / INDEX, SERIES[0], code="safetensors-missing-file")


def test_several_indexes_and_the_path_of_one(tmp_path: Path) -> None:
    fill(tmp_path, {"a.safetensors": {"x": 1}, "b.safetensors": {"x": 2}})
    for name in "ab":
        write_index(tmp_path, {"x": f"{name}.safetensors"}, f"{name}.safetensors.index.json")
    refuse(tmp_path, "a.safetensors.index.json", code="safetensors-several-indexes")
    assert values(tmp_path / "b.safetensors.index.json") == {"x": 2}


def test_an_index_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    snapshot.mkdir()
    fill(blobs, {"a.safetensors": {"x": 1}})
    write_index(blobs, {"x": "model-00001-of-00001.safetensors"}, "index")
    (snapshot / "model-00001-of-00001.safetensors").symlink_to(blobs / "a.safetensors")
    (snapshot / INDEX).symlink_to("../blobs/index")
    assert values(snapshot) == values(snapshot / INDEX) == {"x": 1}


def warned(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    open_checkpoint(path).close()
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_tensors_that_the_index_does_not_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {f"mtp.{number}": 9.0 for number in range(6)}
    fill(tmp_path, {"a.safetensors": {"x": 1, **extra}})
    index = write_index(tmp_path, {"x": "a.safetensors"})
    assert values(tmp_path) == {"x": 1}
    (said,) = warned(tmp_path, caplog)
    assert said.startswith(f"{index}: left out, since it does not list them: 'mtp.0' in a.saf")
    assert said.endswith("and 2 more")
    with open_checkpoint(tmp_path) as snapshot:
        remembered: Any = snapshot.metadata[METADATA_KEY]
        assert remembered["weight_map"] == {"x": "a.safetensors"}


def test_a_stale_copy_in_another_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"a.safetensors": {"x": 1, "y": 8}, "b.safetensors": {"y": 2, "x": 9}})
    write_index(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    assert values(tmp_path) == {"x": 1, "y": 2}
    assert warned(tmp_path, caplog) == []


def test_a_tied_name_that_no_file_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"a.safetensors": {"embed.weight": 1}})
    names = ("embed.weight", "lm_head.weight")
    index = write_index(tmp_path, dict.fromkeys(names, "a.safetensors"))
    assert values(tmp_path) == {"embed.weight": 1}
    (said,) = warned(tmp_path, caplog)
    assert said == f"{index}: left out, since no file has them: 'lm_head.weight'"


def test_a_name_that_no_file_has_is_missed_where_it_is_needed(tmp_path: Path) -> None:
    fill(tmp_path, {"a.safetensors": {"embed": 1}})
    write_index(tmp_path, {"embed": "a.safetensors", "head": "a.safetensors"})
    embed = torch.zeros(1)
    restored = thaw.restore(tmp_path, into={"embed": embed, "head": embed})
    assert (float(embed), restored.report.kept) == (1, ())
    with pytest.raises(thaw.MismatchError, match="'head' is not in the snapshot"):
        thaw.restore(tmp_path, into={"embed": embed, "head": torch.zeros(1)})


def test_a_folder_of_pickles(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    refuse(tmp_path, "pytorch_model.bin", "thaw reads no pickles", code="safetensors-missing-file")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin, and thaw reads no pickles"):
        thaw.restore(tmp_path)
    with pytest.raises(FormatError, match="thaw reads no pickles"):
        thaw.restore(tmp_path / "pytorch_model.bin")
