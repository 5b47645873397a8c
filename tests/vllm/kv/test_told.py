"""What a request is told of sessions, and what it is not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_requests import missed, misses, request, scheduler
from made_sessions import freeze, session


def salted(tmp_path: Path, **members: Any) -> tuple[Any, Any]:
    """Ask for a prompt that begins like a session of someone with a salt."""
    freeze(tmp_path / "a.thaw", replace(session(), salt_sha256="0a" * 32, **members))
    return scheduler(tmp_path), request()


@pytest.mark.parametrize("members", [{}, {"fingerprint": "0e" * 32}])
def test_a_request_is_not_told_how_sessions_of_other_salts_begin(
    tmp_path: Path, members: dict[str, Any]
) -> None:
    made, asked = salted(tmp_path, **members)
    for _ in range(2):
        assert made.matched_tokens(asked, 0) == 0
    assert list(misses(made).values()) == [1]
    assert missed(made, asked) == ""


def test_one_that_names_the_session_is(tmp_path: Path) -> None:
    made, _ = salted(tmp_path)
    asked = request(restore="a")
    assert made.matched_tokens(asked, 0) == 0
    assert missed(made, asked) == "a.thaw: the cache salt of the request differs"


def test_what_is_told_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    freeze(tmp_path / "real" / "a.thaw", replace(session(), fingerprint="0e" * 32))
    made, asked = scheduler(tmp_path / "folder"), request(freeze="b")
    assert made.matched_tokens(asked, 0) == 0
    _, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
    assert said["thaw"]["missed"].startswith("a.thaw: it is of weights")
    assert said["thaw"]["session"] == "b.thaw"
    assert str(tmp_path) not in str(said)


@pytest.mark.parametrize("folder", ["sessions", "a+b (1)"])
def test_errors_name_no_folder_of_this_machine(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).write_text("")  # no folder
    made = scheduler(tmp_path / folder)
    for asked in (request("0", freeze="a"), request("1", freeze="/etc/a"), request("2")):
        assert made.matched_tokens(asked, 0) == 0
        _, said = made.finished(asked, [[1, 2, 3, 4, 5]], ended_well=True)
        assert "the folder of sessions" in str(said)
        assert str(tmp_path) not in str(said)


def test_a_folder_whose_name_begins_like_it_is_named(tmp_path: Path) -> None:
    made = scheduler(tmp_path / "sessions")
    path = os.fspath(tmp_path / "sessions-2" / "a")
    _, said = made.finished(request(freeze=path), [[1, 2, 3, 4, 5]], ended_well=True)
    assert said["thaw"]["error"].startswith(f"{path} is not in the folder of sessions: ")
