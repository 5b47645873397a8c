"""The profile of sessions, its rules and its vectors fit each other, and two readers agree."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from thaw_format import FormatError, verify_shard
from typer.testing import CliRunner

import thaw
from thaw.cli.app import app
from thaw.vllm.kv.record import Session, check_ranks
from thaw.vllm.kv.rules import SESSION_RULES
from thaw.vllm.weights.fingerprint import fingerprint

SPEC = Path(__file__).resolve().parents[2] / "spec"
TEXT = (SPEC / "sessions-1.0.md").read_text(encoding="utf-8")
FORMAT = (SPEC / "thaw-1.0.md").read_text(encoding="utf-8")
SESSIONS = SPEC / "sessions"
WEIGHTS = SESSIONS / "weights"
MAX_NBYTES = 65535
RULE = re.compile(r"- \*\*((?:[A-Z]+-)+\d+)\*\* (?:\(`([a-z0-9-]+)`\) )?\S")
RULES = [match for line in TEXT.splitlines() if (match := RULE.match(line))]
OF_FILES = {match[1]: match[2] for match in RULES if re.fullmatch(r"KV-\d+", match[1])}
OF_FORMAT = {m[1]: m[2] for line in FORMAT.splitlines() if (m := RULE.match(line))}
PATHS = sorted(SESSIONS.glob("*valid/*.thaw"))
EXPECTED: dict[Path, Any] = {
    path: json.loads(path.with_suffix(".json").read_text("utf-8")) for path in PATHS
}
USES: dict[Path, Any] = {
    path.with_suffix(".thaw"): json.loads(path.read_text("utf-8"))
    for path in sorted((SESSIONS / "use").glob("*.json"))
}
VALID = {path: each for path, each in EXPECTED.items() if path.parent.name == "valid"}
INVALID = {path: each for path, each in EXPECTED.items() if path.parent.name == "invalid"}
# Valid snapshots that do not say that they hold a session.
NO_SESSIONS = {
    *(f"session-missing-{each}" for each in ("kind", "kind-case", "kind-empty", "kind-longer")),
    *(f"session-missing-{each}" for each in ("case", "deeper", "elsewhere", "member")),
    "session-missing-before-version",
}
EXAMPLE = SESSIONS / "valid" / "one-block.thaw"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"spec_{name}_of_sessions", SPEC / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_reader() -> ModuleType:
    sys.path.insert(0, str(SPEC))
    found = load("session_reader")
    sys.path.remove(str(SPEC))
    return found


CONFORMANCE, READER = load("conformance"), load_reader()


def section(number: int) -> str:
    return TEXT.split(f"\n## {number}. ", 1)[1].split("\n## ", 1)[0]


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_rules_are_numbered_once_and_in_order() -> None:
    numbers: dict[str, list[int]] = {}
    for match in RULES:
        family, number = match[1].rsplit("-", 1)
        numbers.setdefault(family, []).append(int(number))
    assert numbers.keys() == {"KV", "KV-FP", "KV-USE", "KV-CON"}
    for family, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), family


def test_every_must_stands_in_a_rule() -> None:
    lines = [line for line in TEXT.replace(section(1), "").splitlines() if "MUST" in line]
    assert lines
    assert [line for line in lines if not RULE.match(line)] == []


def test_rules_that_are_named_are_there() -> None:
    known = {match[1] for match in RULES} | OF_FORMAT.keys()
    named = set(re.findall(r"\b(?:[A-Z]+-)+\d+\b", TEXT)) - {"SHA-256", "RFC-2119", "UTF-8"}
    assert named - known == set()


def test_codes_and_rules_agree() -> None:
    assert {code: rule for rule, code in OF_FILES.items() if code} == SESSION_RULES
    assert SESSION_RULES.keys().isdisjoint(OF_FORMAT.values())


def test_every_rule_has_a_vector_and_every_code_an_invalid_one() -> None:
    assert {rule for each in VALID.values() for rule in each["rules"]} | set(
        SESSION_RULES.values()
    ) == OF_FILES.keys()
    shown = {each["error"]["code"] for each in INVALID.values()}
    assert shown - set(OF_FORMAT.values()) == SESSION_RULES.keys()


def test_errors_name_the_rule_of_their_code() -> None:
    for path, each in INVALID.items():
        assert each.keys() == {"description", "rules", "error"}, path
        rule = each["error"]["rule"]
        assert (OF_FILES | OF_FORMAT)[rule] == each["error"]["code"], path
        assert each["rules"][0] == rule, path


def test_valid_vectors_have_a_table() -> None:
    for path, each in VALID.items():
        assert each.keys() == {"description", "rules", "sessions"}, path
        assert [row["rank"] for row in each["sessions"]] == list(range(len(each["sessions"]))), path


def test_every_vector_has_a_description_of_its_own() -> None:
    for kind in (VALID, INVALID):
        said: dict[Any, Path] = {}
        for path, each in kind.items():
            key = each["description"], json.dumps(each.get("error"))
            assert said.setdefault(key, path) == path


def test_vectors_are_small_and_come_in_pairs() -> None:
    for kind in ("valid", "invalid"):
        files = [path for path in (SESSIONS / kind).rglob("*") if path.is_file()]
        assert [path for path in files if path.stat().st_size > MAX_NBYTES] == []
        beside = {path.stem for path in (SESSIONS / kind).glob("*.thaw")}
        assert beside == {path.stem for path in (SESSIONS / kind).glob("*.json")}


def test_invalid_vectors_are_valid_snapshots_but_for_what_says_otherwise() -> None:
    for path, each in INVALID.items():
        if each["error"]["code"] in SESSION_RULES:
            thaw.verify(path)


@pytest.mark.parametrize("path", PATHS, ids=label)
def test_ours(path: Path) -> None:
    expected, snapshots = EXPECTED[path], ()
    try:
        snapshots = thaw.open_ranks(path)
        for each in snapshots:
            verify_shard(each)  # type: ignore[arg-type]
        sessions = [Session.of(each) for each in snapshots]
        check_ranks(sessions)
    except FormatError as error:
        assert {"code": error.code, "rule": error.rule} == expected["error"]
    else:
        assert [each.tokens for each in sessions] == [x["tokens"] for x in expected["sessions"]]
        for session in sessions:
            assert session.record()["session"]
    finally:
        for each in snapshots:
            each.close()


@pytest.mark.parametrize("path", PATHS, ids=label)
def test_thaw_inspect(path: Path) -> None:
    found = CliRunner().invoke(app, ["inspect", "--json", "--sha256", str(path)])
    expected = EXPECTED[path]
    if path.stem in NO_SESSIONS:
        assert found.exit_code == 0
        assert "sessions" not in json.loads(found.stdout)
        return
    done = subprocess.CompletedProcess(
        [], found.exit_code, found.stdout.encode(), found.stderr.encode()
    )
    assert CONFORMANCE.judge(done, expected) is None


def test_the_worked_example_is_the_vector() -> None:
    said = [json.loads(line) for line in section(10).splitlines() if line.startswith("    {")]
    with thaw.open(EXAMPLE) as snapshot:
        assert said[0] == snapshot.metadata["session"]
        session = Session.of(snapshot)
    assert said[1].keys() == session.layers.keys()
    assert said[2] == VALID[EXAMPLE]["sessions"][0]
    assert session.token_ids[:8].hex(" ", 4) == "64000000 6b000000"


def fingerprint_in_the_text() -> tuple[str, str]:
    found = re.search(r"^    (\[.*\])\n    ([0-9a-f]{64})$", section(5), re.MULTILINE)
    assert found
    return found[1], found[2]


def test_the_fingerprint_in_the_text_is_that_of_its_line() -> None:
    line, digest = fingerprint_in_the_text()
    assert hashlib.sha256(line.encode() + b"\n").hexdigest() == digest
    assert json.loads((WEIGHTS / "one.json").read_text())["fingerprint"] == digest


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.thaw")), ids=lambda path: path.stem)
def test_fingerprints(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))["fingerprint"]
    assert fingerprint(thaw.restore(path, device="cpu")) == expected
    command = [sys.executable, SPEC / "session_reader.py", "--fingerprint", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"fingerprints": [expected]}


def test_other_weights_have_other_fingerprints() -> None:
    found = [json.loads(path.read_text("utf-8")) for path in WEIGHTS.glob("*.json")]
    by_digest = Counter(each["fingerprint"] for each in found)
    # Columns and gaps change nothing.
    assert sorted(by_digest.values()) == [*[1] * (len(found) - 3), 3]


def test_requests_name_rules_and_every_rule_of_them_is_shown() -> None:
    requests = [each for found in USES.values() for each in found["requests"]]
    shown = {rule for each in requests for rule in each["rules"]}
    assert shown == {f"KV-USE-{number}" for number in range(2, 7)}
    for path, each in USES.items():
        said = [request["description"] for request in each["requests"]]
        assert len(said) == len(set(said)), path


@pytest.mark.parametrize("path", USES, ids=label)
def test_requests_have_as_many_tokens_as_the_rules_say(path: Path) -> None:
    (session,) = READER.check_set(READER.open_path(str(path)))
    for each in USES[path]["requests"]:
        assert READER.usable_tokens(session, each) == each["tokens"], each["description"]
