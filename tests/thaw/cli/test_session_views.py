"""What `thaw inspect` and `thaw verify` say of a session."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import thaw
from thaw.cli.app import app

SESSIONS = Path(__file__).parents[3] / "spec" / "sessions"
VALID, INVALID = SESSIONS / "valid", SESSIONS / "invalid"
SAID = json.loads((VALID / "media.json").read_text())["sessions"][0]


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_inspect_says_in_short_what_a_session_is() -> None:
    status, shown, _ = run("inspect", VALID / "adapter.thaw")
    assert status == 0
    for each in (
        "32 tokens",
        "full: 2 layers, 2 blocks of 16 tokens",
        "sliding-window of 12: 1 layer, 1 block of 16 tokens from block 1",
        SAID["fingerprint"][:16],
        "vllm = 0.26.0",
        "alice",
    ):
        assert each in shown
    assert "token_ids" not in shown
    assert "metadata" not in shown


def test_inspect_shows_what_else_is_in_the_metadata() -> None:
    _, shown, _ = run("inspect", VALID / "unknown-metadata.thaw")
    assert "sessions = 1" in shown
    assert "token_ids" not in shown


def test_names_of_a_session_are_escaped(tmp_path: Path) -> None:
    with thaw.open(VALID / "adapter.thaw") as snapshot:
        tensors, metadata = thaw.restore(snapshot), dict(snapshot.metadata)
    session = json.loads(json.dumps(metadata["session"]))
    session["adapter"]["name"] = "\x1b[31mred"
    session["engine"] = {"a\u202e": "\x1b]0;title\x07", "count": 7}
    thaw.freeze(tensors, tmp_path / "x.thaw", kind="kv", metadata={"session": session})
    status, shown, _ = run("inspect", tmp_path / "x.thaw")
    assert status == 0
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\u{1b}[31mred" in shown


@pytest.mark.parametrize("options", [(), ("--sha256",)])
def test_inspect_has_the_session_table(options: tuple[str, ...]) -> None:
    _, shown, _ = run("inspect", VALID / "media.thaw", "--json", *options)
    (found,) = json.loads(shown)["sessions"]
    assert [("sha256" in each) for each in found["layers"]] == [bool(options)] * 3
    assert found["token_ids_sha256"] == SAID["token_ids_sha256"]
    assert found["media"] == SAID["media"]


def test_one_rank_can_be_looked_at() -> None:
    _, shown, _ = run("inspect", VALID / "ranks-differ.thaw", "--rank", 1, "--json")
    (found,) = json.loads(shown)["sessions"]
    assert (found["rank"], found["fingerprint"]) == (1, "00" * 32)


def test_what_is_no_session_has_none(tmp_path: Path) -> None:
    thaw.freeze({}, tmp_path / "x.thaw", kind="kv", metadata={"other": 1})
    for path in (tmp_path / "x.thaw", INVALID / "session-missing-kind.thaw"):
        assert "sessions" not in json.loads(run("inspect", path, "--json")[1])
        assert json.loads(run("verify", path, "--json")[1])["session_tokens"] is None


def test_verify_says_that_it_was_a_session() -> None:
    status, shown, _ = run("verify", VALID / "ranks.thaw")
    assert status == 0
    assert "a session of 32 tokens, 2 ranks, 6 tensors" in shown
    found = json.loads(run("verify", VALID / "ranks.thaw", "--json")[1])
    assert found["session_tokens"] == 32


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("session-window-one", "session-window", "KV-14"),
        ("session-tensor-shape-sizes", "session-tensor-shape", "KV-19"),
        ("session-ranks-salt", "session-ranks", "KV-22"),
        ("session-missing-null", "session-missing", "KV-1"),
    ],
)
def test_a_broken_rule_is_one_line(command: str, name: str, code: str, rule: str) -> None:
    path = INVALID / f"{name}.thaw"
    status, shown, said = run(command, path)
    assert (status, shown) == (1, "")
    assert said.startswith(f"thaw: {path}: ")
    assert said.endswith(f" [{code}, {rule}]\n")
    assert said.count("\n") == 1
    error = json.loads(run(command, path, "--json")[2].splitlines()[-1])
    assert (error["code"], error["rule"], error["path"]) == (code, rule, str(path))
