"""What of a request decides whether a session serves it, and what it asks."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_requests import request

from thaw.vllm.kv.record import Media
from thaw.vllm.kv.requests import Adapters, Asked, inputs_of, token_bytes


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"other": 1}, {"thaw": None}, {"thaw": {}}, "thaw", ["thaw"], 5],
)
def test_most_requests_ask_nothing(parameters: Any) -> None:
    assert Asked.of(parameters) == Asked()


def test_what_is_asked_is_taken() -> None:
    asked = {"freeze": "a", "restore": "b", "tokens": 32, "skip": True}
    assert Asked.of({"thaw": asked, "more": 1}) == Asked(**asked)
    assert Asked.of({"thaw": {"freeze": None, "skip": False}}) == Asked(skip=False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("a", "expected an object with some of freeze, restore, skip, tokens"),
        ([], "expected an object"),
        ({"fries": 1}, "expected an object"),
        ({5: 1}, "expected an object"),
        ({"freeze": 1}, "'freeze' is 1, expected a str"),
        ({"restore": ["a"]}, "'restore' is .*, expected a str"),
        ({"tokens": "1"}, "'tokens' is '1', expected a int"),
        ({"tokens": True}, "'tokens' is True, expected a int"),
        ({"tokens": 0}, "'tokens' is 0, expected 1 or more"),
        ({"tokens": -5}, "'tokens' is -5, expected 1 or more"),
        ({"skip": 1}, "'skip' is 1, expected a bool"),
    ],
)
def test_what_is_asked_in_another_form_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Asked.of({"thaw": asked})


def test_token_ids_are_little_endian() -> None:
    assert token_bytes([1, 258, 2**32 - 1]) == b"\1\0\0\0\2\1\0\0\xff\xff\xff\xff"
    assert token_bytes([]) == b""


def test_a_salt_is_kept_as_a_digest() -> None:
    asked = request()
    assert inputs_of(asked, Adapters()).salt_sha256 is None
    asked.cache_salt = "sé"
    found = inputs_of(asked, Adapters()).salt_sha256
    assert found == hashlib.sha256("sé".encode()).hexdigest()


def test_media_are_what_they_are_and_where() -> None:
    asked = request()
    asked.mm_features = [
        SimpleNamespace(identifier="x", mm_position=SimpleNamespace(offset=3, length=4)),
        SimpleNamespace(identifier="y", mm_position=SimpleNamespace(offset=40, length=2)),
    ]
    found = inputs_of(asked, Adapters())
    assert found.media == (Media("x", 3, 4), Media("y", 40, 2))
    assert found.media_before(40) == (Media("x", 3, 4),)
    assert found.media_before(41) == found.media


def adapter(folder: Path, data: bytes = b"weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(data)
    return folder


def with_adapter(path: Path, number: int = 1, name: str = "alice") -> Any:
    asked = request()
    asked.lora_request = SimpleNamespace(
        lora_name=name, lora_path=os.fspath(path), lora_int_id=number
    )
    return asked


def test_an_adapter_is_its_name_and_its_bytes(tmp_path: Path) -> None:
    known = Adapters()
    one = known.of(with_adapter(adapter(tmp_path / "one")))
    assert one is not None
    assert one.name == "alice"
    moved = known.of(with_adapter(adapter(tmp_path / "moved"), number=2))
    assert moved == one
    other = known.of(with_adapter(adapter(tmp_path / "other", b"weightt"), number=3, name="bob"))
    assert other is not None
    assert other.sha256 != one.sha256
    assert known.of(request()) is None


def test_bytes_that_move_from_file_to_file_change_it(tmp_path: Path) -> None:
    found = set()
    for index, files in enumerate(
        [{"a": b"xy", "b": b""}, {"a": b"x", "b": b"y"}, {"a": b"xy"}, {"ab": b"xy"}, {"b": b"xy"}]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        made = Adapters().of(with_adapter(folder))
        assert made is not None
        found.add(made.sha256)
    assert len(found) == 5


def test_an_adapter_whose_files_have_changed_is_none_that_is_known(tmp_path: Path) -> None:
    """The engine goes on with what it has loaded; of the new files nothing says that it has."""
    known = Adapters()
    folder = adapter(tmp_path / "one")
    before = known.of(with_adapter(folder))
    adapter(folder, b"others")
    with pytest.raises(OSError, match="has changed since"):
        known.of(with_adapter(folder))
    # As another adapter it is loaded anew.
    after = known.of(with_adapter(folder, number=2, name="alice2"))
    assert before is not None
    assert after is not None
    assert after.sha256 != before.sha256


def test_an_adapter_without_files_here_has_no_session(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Adapters().of(with_adapter(tmp_path / "none"))


def test_files_count_as_they_were_when_the_adapter_was_first_used(tmp_path: Path) -> None:
    known, folder = Adapters(), adapter(tmp_path / "one")
    known.note(with_adapter(folder))  # a request that no session concerns
    adapter(folder, b"others")
    with pytest.raises(OSError, match="has changed since"):
        known.of(with_adapter(folder))
    again = with_adapter(folder)
    again.lora_request.load_inplace = True
    known.note(again)
    known.forget_blocks()
    assert known.of(again) == known.of(with_adapter(folder))


def test_two_adapters_of_one_name_have_no_session_until_the_cache_is_reset(tmp_path: Path) -> None:
    """vLLM's keys have the name alone: blocks of one are a hit for the other."""
    one, two = (adapter(tmp_path / each, each.encode()) for each in ("one", "two"))
    known, first, second = Adapters(), with_adapter(one), with_adapter(two, number=2)
    known.note(first)  # no session concerns it, but its blocks stay
    for each in (second, first):
        with pytest.raises(OSError, match=r"of this name that differ.*reset_connector=True"):
            known.of(each)
    known.forget_blocks()
    found = known.of(second)
    assert found is not None
    assert found.name == "alice"
    with pytest.raises(OSError, match="of this name that differ"):
        known.of(first)


def test_adapters_of_one_name_and_content_are_one(tmp_path: Path) -> None:
    one, two = (adapter(tmp_path / each) for each in ("one", "two"))
    known = Adapters()
    known.note(with_adapter(one))
    assert known.of(with_adapter(two, number=2)) == known.of(with_adapter(one))


def test_an_adapter_loaded_in_place_differs_from_what_it_was(tmp_path: Path) -> None:
    known, folder = Adapters(), adapter(tmp_path / "one")
    known.of(with_adapter(folder))
    adapter(folder, b"others")
    again = with_adapter(folder)
    again.lora_request.load_inplace = True
    with pytest.raises(OSError, match="of this name that differ"):
        known.of(again)
