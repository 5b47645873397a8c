"""What requests may ask of sessions: names that lead into the folder, in the form that is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from made_requests import begin, request, scheduler, step
from made_sessions import freeze

ELSEWHERE = ["../x", "/etc/x.thaw", "a/../../x", "/INSIDE/folder/y.thaw"]
NAMES = ["\0", "a\0.thaw", "", ".x", "x.safetensors", "x" * 300]
INSIDE = ["\0.thaw", ".hidden.thaw", "x.safetensors", "\udc80.thaw", "x" * 300 + ".thaw"]
NOWHERE = [*NAMES, *(f"/INSIDE/{name}" for name in INSIDE)]


@pytest.mark.parametrize("what", ["freeze", "restore"])
@pytest.mark.parametrize(
    ("name", "any_path"),
    [(name, False) for name in (*NOWHERE, *ELSEWHERE)] + [(name, True) for name in NOWHERE],
)
def test_names_that_lead_elsewhere_or_nowhere_are_refused(
    tmp_path: Path, name: str, any_path: bool, what: str
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    freeze(folder / "a.thaw")
    made = scheduler(folder, any_path=any_path)
    asked = request(**{what: name.replace("/INSIDE", os.fspath(folder))})
    assert made.matched_tokens(asked, 0) == (0 if what == "restore" else 64)
    stays, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    assert not stays
    assert not step(made).freezes
    assert said["thaw"].get("error") or said["thaw"].get("missed")
    assert sorted(os.listdir(tmp_path)) == ["sessions"]
    assert os.listdir(folder) == ["a.thaw"]


@pytest.mark.parametrize("what", ["freeze", "restore"])
def test_a_path_inside_of_the_folder_is_a_name(tmp_path: Path, what: str) -> None:
    freeze(tmp_path / "a.thaw")
    made = scheduler(tmp_path)
    asked = request(**{what: os.fspath(tmp_path / "a.thaw")})
    assert begin(made, asked) == 64
    stays, _ = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    assert stays == (what == "freeze")


def test_a_folder_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "sessions").symlink_to(tmp_path / "real")
    made = scheduler(tmp_path / "sessions")
    for name in ("a", os.fspath(tmp_path / "sessions" / "a.thaw")):
        made.finished(request(freeze=name), [[1, 2, 3, 4, 5]], ended_well=True)
        assert step(made).freezes[0].path == os.fspath(tmp_path / "real" / "a.thaw")


def test_a_freeze_to_a_symbolic_link_is_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    elsewhere = freeze(tmp_path / "other.thaw")
    (folder / "a.thaw").symlink_to(elsewhere)
    made = scheduler(folder)
    made.finished(request(freeze="a"), [[1, 2, 3, 4, 5]], ended_well=True)
    assert step(made).freezes[0].path == os.fspath(folder / "a.thaw")


@pytest.mark.parametrize(
    "asked",
    [
        *({"freeze": value} for value in (1, ["a"], {"b": 1}, True)),
        *({"tokens": value, "freeze": "a"} for value in (0, -32, True, "32", 1.5)),
        {"skip": 1, "freeze": "a"},
        {"freez": "a"},
    ],
)
def test_what_is_asked_in_another_form_is_refused_and_the_request_served(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = scheduler(tmp_path)
    made_request = request(**asked)
    assert made.matched_tokens(made_request, 0) == 0
    stays, said = made.finished(made_request, [[1, 2, 3, 4, 5]], ended_well=True)
    assert not stays
    word = next(iter(asked))
    assert word in said["thaw"]["error"]
    assert "sliding window" not in said["thaw"]["error"]
