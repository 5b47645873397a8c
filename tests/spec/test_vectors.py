"""The specification, its rules and its vectors fit each other."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SPEC = Path(__file__).resolve().parents[2] / "spec"
TEXT = (SPEC / "thaw-1.0.md").read_text(encoding="utf-8")
VECTORS = SPEC / "vectors"
MAX_NBYTES = 65535
RULE = re.compile(r"- \*\*([A-Z]+-\d+)\*\* (?:\(`([a-z0-9-]+)`\) )?\S")
RULES = [match for line in TEXT.splitlines() if (match := RULE.match(line))]
CODE_OF_RULE = {match[1]: match[2] for match in RULES}
EXPECTED = {
    path.relative_to(VECTORS).with_suffix("").as_posix(): json.loads(path.read_text())
    for path in sorted(VECTORS.glob("*valid/*.json"))
}
VALID = {name: each for name, each in EXPECTED.items() if name.startswith("valid/")}
INVALID = {name: each for name, each in EXPECTED.items() if name.startswith("invalid/")}
REJECTED = {name: each for name, each in EXPECTED.items() if "error" in each}
# Shown by vectors that no archive can hold; tests/spec/test_conformance.py makes those.
MADE_RULES, MADE_CODES = {"PATH-1", "CON-4"}, {"not-a-file", "limit"}
EXAMPLE = "valid/minimal"


def section(number: int) -> str:
    return TEXT.split(f"\n## {number}. ", 1)[1].split("\n## ", 1)[0]


def hex_blocks(text: str) -> list[list[str]]:
    line = r"    (?:\*|[0-9a-f]{8}  [0-9a-f ]+.*)\n"
    return [found[0].splitlines() for found in re.finditer(f"(?:{line})+", text)]


def test_rules_are_numbered_once_and_in_order() -> None:
    numbers: dict[str, list[int]] = {}
    for match in RULES:
        family, number = match[1].rsplit("-", 1)
        numbers.setdefault(family, []).append(int(number))
    for family, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), family


def test_every_must_stands_in_a_rule() -> None:
    body = TEXT.replace(section(1), "")
    lines = [line for line in body.splitlines() if re.search(r"\bMUST\b", line)]
    assert lines
    assert [line for line in lines if not RULE.match(line)] == []


def test_every_rule_has_a_vector() -> None:
    shown = {rule for each in EXPECTED.values() for rule in each["rules"]}
    assert shown | MADE_RULES == CODE_OF_RULE.keys()


def test_every_rule_that_is_shown_elsewhere_has_a_vector_there() -> None:
    text = "".join((SPEC / f"cases_{each}.py").read_text("utf-8") for each in ("made", "limits"))
    assert [each for each in MADE_RULES | MADE_CODES if f'"{each}' not in text] == []


def test_every_code_has_a_vector() -> None:
    codes = [code for code in CODE_OF_RULE.values() if code]
    assert len(codes) == len(set(codes))
    assert {each["error"]["code"] for each in REJECTED.values()} | MADE_CODES == set(codes)


def test_errors_name_the_rule_of_their_code() -> None:
    for name, each in REJECTED.items():
        assert CODE_OF_RULE[each["error"]["rule"]] == each["error"]["code"], name
        assert each["error"]["rule"] in each["rules"], name


def test_invalid_vectors_have_no_table() -> None:
    for name, each in INVALID.items():
        assert each.keys() == {"description", "rules", "error"}, name


def test_tables_are_whole_and_sorted() -> None:
    members = {"rank", "name", "dtype", "shape", "stride", "storage", "offset", "sha256"}
    for name, each in VALID.items():
        assert each.keys() - {"error"} == {"description", "rules", "tensors"}, name
        assert all(row.keys() == members for row in each["tensors"]), name
        keys = [(row["rank"], row["name"]) for row in each["tensors"]]
        assert keys == sorted(set(keys)), name


def test_every_vector_has_a_description_of_its_own() -> None:
    assert all(each["description"] for each in EXPECTED.values())
    for kind in (VALID, INVALID):
        said: dict[Any, str] = {}
        for name, each in kind.items():
            key = each["description"], json.dumps(each.get("error"))
            assert said.setdefault(key, name) == name


def test_every_dtype_is_in_a_valid_vector() -> None:
    table = TEXT.split("| dtype | bytes an element |", 1)[1].split("\n\n", 1)[0]
    shown = {row["dtype"] for each in VALID.values() for row in each["tensors"]}
    assert shown == set(re.findall(r"`(\w+)`", table))


def test_vectors_are_small_and_come_in_pairs() -> None:
    for kind in ("valid", "invalid"):
        files = [path for path in (VECTORS / kind).rglob("*") if path.is_file()]
        assert [path for path in files if path.stat().st_size > MAX_NBYTES] == []
        beside = {path.stem for path in (VECTORS / kind).glob("*.thaw")}
        assert beside == {path.stem for path in (VECTORS / kind).glob("*.json")}


def test_vectors_are_what_the_script_makes() -> None:
    command = [sys.executable, str(SPEC / "make_vectors.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", hex_blocks(section(15)), ids=lambda block: block[0].split()[0])
def test_the_worked_example_is_the_vector(block: list[str]) -> None:
    data = (VECTORS / f"{EXAMPLE}.thaw").read_bytes()
    end = None
    for line in block:
        if line.strip() == "*":
            continue
        at = int(line[4:12], 16)
        assert end is None or not any(data[end:at])
        found = bytes.fromhex(line[14:61])
        assert found == data[at : at + len(found)]
        assert line[63:] == "".join(chr(x) if 32 <= x < 127 else "." for x in found)
        end = at + len(found)


def test_the_worked_example_says_the_numbers_of_the_vector() -> None:
    data, said = (VECTORS / f"{EXAMPLE}.thaw").read_bytes(), section(15)
    manifest = re.search(r"^    (\{\"kind.*)$", said, re.MULTILINE)
    table = re.search(r"^    (\{\"dtype.*)$", said, re.MULTILINE)
    assert manifest and table
    assert data[4096:].startswith(manifest[1].encode() + data[0x10E1:0x10E5])
    assert [json.loads(table[1])] == VALID[EXAMPLE]["tensors"]
    for at in (0x118, 0x138, 0xFFC, 0x10E1):
        assert f"{int.from_bytes(data[at : at + 4], 'little'):08x}" in said
    assert f"{len(data)} bytes in the file" in said
    for written in re.findall(r"^\| ([0-9a-f]+) \| `([0-9a-f ]+)`", said, re.MULTILINE):
        found = bytes.fromhex(written[1])
        assert data[int(written[0], 16) :].startswith(found)
