"""A session's name may be anyone's, and leads to a file inside of the folder or nowhere."""

import os
from pathlib import Path

import pytest
from made_sessions import freeze

from thaw import ThawError
from thaw.vllm.kv.folder import Folder, safe_name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("alice", "alice.thaw"),
        ("alice.thaw", "alice.thaw"),
        ("a.b c-d_e", "a.b c-d_e.thaw"),
        ("v1.2", "v1.2.thaw"),
        ("Größe 漢字 😀", "Größe 漢字 😀.thaw"),
        ("-rf", "-rf.thaw"),
        ("con", "con.thaw"),
        ("x" * 250, "x" * 250 + ".thaw"),
        ("漢" * 83, "漢" * 83 + ".thaw"),
    ],
)
def test_a_name_that_may_be_is_one(name: str, file: str, tmp_path: Path) -> None:
    assert safe_name(name) == file
    freeze(tmp_path / safe_name(name))
    assert [each.path.name for each in Folder(tmp_path).scan()] == [file]


NAMES = [
    "",
    ".thaw",
    ".",
    "..",
    "../alice",
    "a/b",
    "/etc/passwd",
    "a\\b",
    ".alice",
    "..thaw",
    " alice",
    "alice ",
    "alice .thaw",
    "\u3000alice",
    "a\nb",
    "a\0b",
    "a\x1b[31m",
    "a\x7fb",
    "a\u202eb",
    "a\u200bb",
    "a\u2028b",
    "\ud800",
    "x" * 251,
    "漢" * 84,
    "alice.thaw.thaw",
    "alice.THAW",
    "alice.safetensors",
    "alice.SafeTensors",
    "alice.safetensors.thaw",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_may_not_be_is_refused_with_what_may(name: str) -> None:
    with pytest.raises(ThawError, match=r"1 to 250 bytes in UTF-8, without '/'") as caught:
        safe_name(name)
    said = str(caught.value)
    assert said.isprintable()
    assert said.isascii()
    assert len(said) < 600


@pytest.mark.parametrize("name", [None, 5, True, ["alice"], {"name": "alice"}, b"alice"])
def test_what_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(ThawError, match=f"is text .*; found {type(name).__name__}"):
        safe_name(name)


def test_names_that_file_systems_refuse_are_refused(tmp_path: Path) -> None:
    for stem in ("x" * 251, "漢" * 84):
        with pytest.raises(OSError, match="too long"):
            os.close(os.open(tmp_path / f"{stem}.thaw", os.O_CREAT | os.O_WRONLY))
