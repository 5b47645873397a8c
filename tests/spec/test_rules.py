"""Every rule of the specification has a vector, and every vector names rules that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from thaw_format import RULES

SPEC = Path(__file__).parents[2] / "spec"
TEXT = (SPEC / "thaw-1.0.md").read_text(encoding="utf-8")
RULE = re.compile(r"^- \*\*([A-Z]+-\d+)\*\*(?: \(`([a-z-]+)`\))? (.*)$", re.MULTILINE)
FOUND = {rule: (code, text) for rule, code, text in RULE.findall(TEXT)}
EXPECTED = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((SPEC / "vectors").glob("*valid/*.json"))
]
NAMED = {rule for each in EXPECTED for rule in each["rules"]}


def test_every_must_stands_in_a_rule() -> None:
    lines = [line for line in TEXT.splitlines() if re.search(r"\bMUST\b", line)]
    outside = [line for line in lines if not RULE.match(line)]
    assert [line for line in outside if "RFC 2119" not in line] == []
    assert all("MUST" in text for _, text in FOUND.values())


@pytest.mark.parametrize("rule", FOUND)
def test_every_rule_has_a_vector(rule: str) -> None:
    assert rule in NAMED


def test_every_code_has_an_invalid_vector() -> None:
    codes = {code for code, _ in FOUND.values() if code}
    assert codes == {each["error"]["code"] for each in EXPECTED if "error" in each} - {"limit"}
    assert {code: rule for rule, (code, _) in FOUND.items() if code} == {
        code: rule for code, rule in RULES.items() if code != "limit"
    }


def test_vectors_name_rules_that_exist_and_codes_that_are_theirs() -> None:
    assert set(FOUND) >= NAMED
    for each in EXPECTED:
        if "error" in each and each["error"]["code"] != "limit":
            assert FOUND[each["error"]["rule"]][0] == each["error"]["code"]


def test_vectors_are_small() -> None:
    files = [path for path in (SPEC / "vectors").rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 64 << 10


def test_vectors_are_as_made() -> None:
    command = [sys.executable, SPEC / "make_vectors.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
