"""The codes of thaw_format are those of the specification."""

import re
from pathlib import Path

from thaw_format import RULES

TEXT = (Path(__file__).parents[2] / "spec" / "thaw-1.0.md").read_text(encoding="utf-8")


def test_codes_and_rules_agree() -> None:
    found = re.findall(r"^- \*\*([A-Z]+-\d+)\*\* \(`([a-z-]+)`\)", TEXT, re.MULTILINE)
    assert {code: rule for rule, code in found} == RULES
